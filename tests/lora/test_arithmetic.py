"""One adapter, three ways to compute it, the same values; and the formulas' own laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from surgery_plugins.surgeries.lora import Lora
from surgery_plugins.surgeries.lora.adapters import branches
from surgery_plugins.surgeries.lora.arithmetic import delta_weight, factors_of
from surgery_plugins.surgeries.lora.folding import largest_error, merged
from tests.lora.kit import adapters, part, place, site, stir
from tests.lora.test_identity import CASES, DORA, EVERY, Case, built, run


def exact(case: Case) -> Case:
    def inputs() -> tuple[Any, ...]:
        return tuple(x.double() if x.is_floating_point() else x for x in case.inputs())

    return Case(case.name, lambda: case.build().double(), case.sites, inputs, case.dora)


def folded(model: nn.Module, case: Case) -> nn.Module:
    """Give a fresh base with the model's adapters folded into its weights."""
    base = built(case)
    for path in dict.fromkeys(path for path, _, _ in branches(model)):
        leaves = {b.leaf for p, _, b in branches(model) if p == path}
        for leaf in leaves:
            owner = model.get_submodule(path)
            mine = [b for p, _, b in branches(model) if p == path and b.leaf == leaf]
            old = base.get_submodule(path)._parameters[leaf]
            factors = [(b, *factors_of(b, owner)) for b in mine]
            base.get_submodule(path)._parameters[leaf] = nn.Parameter(merged(old, factors))
    return base.eval()


@DORA
@EVERY
def test_the_merged_weight_gives_the_same_outputs(case: Case, dora: bool) -> None:
    case = exact(case)
    if dora and not case.dora:
        pytest.skip("refused, see test_refuse")
    model = built(case)
    place(model, case.sites(model), Lora(rank=2, alpha=3, dora=dora))
    stir(model)
    torch.testing.assert_close(run(folded(model, case), case), run(model, case), rtol=0, atol=1e-10)


@DORA
@EVERY
def test_beside_and_effective_are_the_same(case: Case, dora: bool) -> None:
    case = exact(case)
    if dora and not case.dora:
        pytest.skip("refused, see test_refuse")
    outs = []
    for direct in (False, True):
        model = built(case)
        sites = [_direct(one, direct) for one in case.sites(model)]
        place(model, sites, Lora(rank=2, alpha=3, dora=dora))
        stir(model)
        outs.append(run(model, case))
    torch.testing.assert_close(*outs, rtol=0, atol=1e-10)


def _direct(one: Any, direct: bool) -> Any:
    from dataclasses import replace

    return replace(one, direct=direct)


@DORA
def test_two_adapters_add_up_in_any_order(dora: bool) -> None:
    x = torch.randn(3, 6, dtype=torch.float64)
    outs = []
    for names in (("one", "two"), ("two", "one")):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5)).double()
        where = site(model, "0")
        base = model(x)
        for name in names:
            place(model, [where], Lora(rank=2, adapter=name, dora=dora))
        _stir_by_name(model)
        outs.append(model(x))
    assert not torch.allclose(outs[0], base)
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=1e-12)


def _stir_by_name(model: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in adapters(model).items():
            generator = torch.Generator().manual_seed(sum(map(ord, name)))
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


GRADCHECKED = [c for c in CASES if c.name in
               ("linear", "interleaved rows", "rows of a Conv1D", "conv2d in groups", "embedding",
                "experts", "multi-head attention")]  # fmt: skip


@pytest.mark.parametrize("case", GRADCHECKED, ids=lambda case: case.name)
def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    case = exact(case)
    model = built(case)
    if isinstance(model[0] if isinstance(model, nn.Sequential) else None, nn.Embedding):
        model[0].padding_idx = None  # whose whole sense is that its row takes no gradient
    place(model, case.sites(model))
    stir(model)
    names, tensors = zip(*adapters(model).items(), strict=True)

    def function(*values: torch.Tensor) -> torch.Tensor:
        for name, value in zip(names, values, strict=True):
            path, _, leaf = name.rpartition(".")
            model.get_submodule(path)._parameters[leaf] = value  # type: ignore[assignment]
        return run(model, case)[:1, :2]

    assert torch.autograd.gradcheck(function, tuple(t.detach().requires_grad_() for t in tensors))


@pytest.mark.parametrize(
    ("options", "scale"),
    [({}, 1.0), ({"alpha": 8}, 2.0), ({"alpha": 8, "rslora": True}, 4.0), ({"rslora": True}, 2.0)],
    ids=str,
)
def test_the_scale_is_alpha_by_r_or_by_its_root(options: dict[str, Any], scale: float) -> None:
    model = nn.Sequential(nn.Linear(6, 5, bias=False)).double()
    place(model, [site(model, "0")], Lora(rank=4, **options))
    stir(model)
    layer = model[0]
    x = torch.randn(3, 6, dtype=torch.float64)
    want = x @ (layer.weight + scale * layer.lora_default_B @ layer.lora_default_A).T
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-12)


def test_a_merge_rounds_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(70, 130, bias=False)).to(torch.bfloat16)
    place(model, [site(model, "0")], Lora(rank=4))
    stir(model)
    ((_, owner, branch),) = branches(model)
    a, b, m = factors_of(branch, owner)
    base = model[0].weight
    want = (base.double() + b.double() @ a.double()).to(torch.bfloat16)
    got = merged(base, [(branch, a, b, m)])
    assert got.dtype == torch.bfloat16
    assert (got != want).float().mean() < 1e-3  # ties that float32 sees otherwise than float64
    torch.testing.assert_close(got.float(), want.float(), rtol=2**-7, atol=0)


def test_a_difference_is_zero_outside_its_rows() -> None:
    model = nn.Sequential(nn.Linear(6, 18))
    place(model, [part(model, "0", "attention.q", (3, 6), (9, 12))])
    stir(model)
    ((_, owner, branch),) = branches(model)
    change = delta_weight(branch, *factors_of(branch, owner), model[0].weight)
    assert change.shape == (18, 6)
    touched = change.abs().sum(1) > 0
    assert touched.nonzero().flatten().tolist() == [3, 4, 5, 9, 10, 11]


def test_a_row_of_zeros_has_no_direction_and_stays_finite() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    with torch.no_grad():
        model[0].weight[1] = 0
    where = site(model, "0")
    for direct in (False, True):
        transaction = place(model, [_direct(where, direct)], Lora(rank=2, dora=True))
        out = model(torch.randn(3, 6))
        out.sum().backward()
        assert out.isfinite().all()
        assert all(p.grad.isfinite().all() for p in adapters(model).values())
        transaction.rollback()


HALF: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(6, 5),
    lambda: nn.Conv2d(6, 5, 1),
]


@pytest.mark.parametrize("build", HALF, ids=["linear", "conv"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_autocast_changes_no_output_dtype_and_no_identity(build: Any, dora: bool) -> None:
    model = nn.Sequential(build())
    x = torch.randn(2, 6) if isinstance(model[0], nn.Linear) else torch.randn(2, 6, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = model(x)
        place(model, [site(model, "0")], Lora(rank=2, dora=dora))
        after = model(x)
        assert before.dtype == after.dtype == torch.bfloat16
        assert torch.equal(before, after)


def test_adapters_of_a_half_precision_base_are_float32() -> None:
    for kind, want in ((torch.float16, torch.float32), (torch.bfloat16, torch.float32),
                       (torch.float32, torch.float32), (torch.float64, torch.float64)):  # fmt: skip
        model = nn.Sequential(nn.Linear(6, 5)).to(kind)
        place(model, [site(model, "0")], Lora(rank=2, dora=True))
        assert {p.dtype for p in adapters(model).values()} == {want}


def test_the_norm_of_dora_takes_no_gradient_in_the_weight_either() -> None:
    grads = []
    for direct in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5)).double()
        place(model, [_direct(site(model, "0"), direct)], Lora(rank=2, dora=True))
        stir(model)
        (model(torch.ones(3, 6, dtype=torch.float64)) ** 2).sum().backward()
        grads.append([p.grad for p in adapters(model).values()])
    for beside, effective in zip(*grads, strict=True):
        torch.testing.assert_close(beside, effective, rtol=0, atol=1e-10)


def test_a_padding_token_takes_no_gradient() -> None:
    model = nn.Sequential(nn.Embedding(9, 6, padding_idx=2))
    place(model, [site(model, "0")])
    model(torch.tensor([2, 3])).sum().backward()
    touched = model[0].lora_default_A.grad.abs().sum(0) > 0
    assert touched.nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("make", [nn.Linear, lambda i, o: Conv1D(o, i)], ids=["Linear", "Conv1D"])
def test_a_merge_is_compared_with_what_ran_beside(make: Any, dora: bool, dtype: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(make(70, 130)).to(dtype)
    place(model, [site(model, "0")], Lora(rank=4, dora=dora))
    stir(model)
    ((_, owner, branch),) = branches(model)
    adapter = (branch, *factors_of(branch, owner))
    base, generator = model[0].weight.detach(), torch.Generator().manual_seed(1)
    result = merged(base, [adapter])
    assert largest_error(base, result, [adapter], generator) <= 1
    assert largest_error(base, base, [adapter], generator) > 1
    wrong = result.clone()
    wrong[3, 5] += 0.5
    assert largest_error(base, wrong, [adapter], generator) > 1
