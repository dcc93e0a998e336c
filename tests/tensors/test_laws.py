"""Laws of the verbs: what one takes apart another puts together, and undoing is exact."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import surgery
from surgery.operate.patient import Patient
from surgery_plugins.modules.container import tree_of
from tests.tensors import kit
from tests.tensors.kit import step

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3)
kinds = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64])


def done(tensors: dict[str, Tensor], steps: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Apply steps to a state dict; undoing them must give it back, bit for bit."""
    model = tree_of((name, tensor.clone()) for name, tensor in tensors.items())
    applied = surgery.apply(Patient(model), steps)
    found = {name: t.detach().clone() for name, t in model.state_dict().items()}
    applied.undo()
    assert kit.same(dict(model.state_dict()), tensors)
    return found


def made(shape: list[int], kind: torch.dtype, count: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(sum(shape))
    return {f"x.{n}.w": (8 * torch.randn(shape)).to(kind) for n in range(count)}


@settings(max_examples=25)
@given(shapes, kinds, st.data())
def test_a_split_and_a_concatenation_undo_each_other(
    shape: list[int], kind: torch.dtype, data: st.DataObject
) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    shape[axis] = sum(sizes)
    names = [f"y.<n>.{part}" for part in range(len(sizes))]
    steps = [
        step("split", "x.<n>.w", to=names, axis=axis, sizes=sizes),
        step("concatenate", names, to="x.<n>.w", axis=axis),
    ]
    old = made(shape, kind)
    assert kit.same(done(old, steps), old)


@settings(max_examples=25)
@given(shapes, kinds, st.data())
def test_a_permutation_and_its_inverse_give_the_same(
    shape: list[int], kind: torch.dtype, data: st.DataObject
) -> None:
    axes = data.draw(st.permutations(range(len(shape))))
    back = [axes.index(axis) for axis in range(len(shape))]
    steps = [step("permute", "x.*.w", axes=list(axes)), step("permute", "x.*.w", axes=back)]
    old = made(shape, kind)
    assert kit.same(done(old, steps), old)
    first = done(old, steps[:1])
    assert all(torch.equal(t, old[n].permute(list(axes))) for n, t in first.items())


@settings(max_examples=25)
@given(shapes, kinds.filter(lambda kind: kind.is_floating_point), st.integers(-3, 3))
def test_a_power_of_two_scales_and_comes_back(
    shape: list[int], kind: torch.dtype, power: int
) -> None:
    by = 2.0**power
    old = made(shape, kind)
    steps = [step("scale", "**.w", by=by), step("scale", "x.<n>.w", by=1 / by)]
    assert kit.same(done(old, steps), old)
    assert all(torch.equal(t, old[n] * by) for n, t in done(old, steps[:1]).items())


@settings(max_examples=25)
@given(shapes, kinds, st.integers(1, 12))
def test_stacks_stand_in_the_order_of_their_numbers(
    shape: list[int], kind: torch.dtype, count: int
) -> None:
    old = made(shape, kind, count)
    found = done(old, [step("stack", "x.<n>.w", to="all", axis=0)])
    assert kit.same(found, {"all": torch.stack([old[f"x.{n}.w"] for n in range(count)])})


@settings(max_examples=25)
@given(shapes, kinds, st.permutations(["move there", "copy", "move other"]))
def test_the_order_of_independent_steps_does_not_matter(
    shape: list[int], kind: torch.dtype, order: list[str]
) -> None:
    steps = {
        "move there": step("move", "x.0.<leaf>", to="y.0.<leaf>"),
        "copy": step("copy", "x.1.w", to="z"),
        "move other": step("move", "o", to="p.q"),
    }
    old = {**made(shape, kind), "o": torch.arange(3)}
    found = done(old, [steps[name] for name in order])
    wanted = {"y.0.w": old["x.0.w"], "x.1.w": old["x.1.w"], "z": old["x.1.w"], "p.q": old["o"]}
    assert kit.same(found, wanted)
