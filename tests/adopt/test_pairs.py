"""Weights in parts become the plain weights that torch computes, bit by bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from surgery.checkpoint.legacy.find import values_of
from surgery.checkpoint.legacy.pairs import materialised, norm_axis, pairs_of, refuse_leftovers
from surgery.checkpoint.legacy.reading import Wishes
from surgery.checkpoint.legacy.resolve import resolve_freely, resolve_towards
from surgery.errors import PatientError, RecipeError
from tests.adopt.kit import declared_as, state_of

warnings.filterwarnings("ignore", category=FutureWarning)
Make = Callable[[], nn.Module]


def example(module: nn.Module) -> torch.Tensor:
    if isinstance(module, nn.Linear):
        return torch.randn(1, module.in_features)
    width = module.in_channels
    return torch.randn(1, width, *([9] * len(module.kernel_size)))  # type: ignore[arg-type]


def trained(module: nn.Module) -> nn.Module:
    for _ in range(40):
        module.train()(example(module))
    module.eval()(example(module))
    return module


def plain(module: nn.Module) -> torch.Tensor:
    found = materialised(state := state_of(module.state_dict()).tensors, pairs_of(state))
    assert set(found) == {"weight", "bias"}
    return values_of(found["weight"])


LAYERS: list[Make] = [
    lambda: nn.Linear(5, 4), lambda: nn.Linear(4, 4), lambda: nn.Linear(5, 1),
    lambda: nn.Conv1d(4, 6, 3), lambda: nn.Conv2d(6, 6, 3), lambda: nn.ConvTranspose1d(4, 6, 3),
    lambda: nn.ConvTranspose2d(6, 6, 3),
]  # fmt: skip


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("wrap", [weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm(make: Make, wrap: Callable[..., nn.Module], dim: int | None) -> None:
    module = trained(wrap(make(), dim=dim))
    assert torch.equal(plain(module), module.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("wrap", [spectral_norm, parametrizations.spectral_norm])
def test_spectral_norm(make: Make, wrap: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    module = trained(wrap(make()))
    assert torch.equal(plain(module), module.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", LAYERS[:4])
def test_pruning(make: Make) -> None:
    module = make()
    prune.random_unstructured(module, "weight", 0.4)
    module.eval()(example(module))
    assert torch.equal(plain(module), module.weight)  # type: ignore[arg-type]


def test_rnn_weights_in_parts() -> None:
    module = weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    state = state_of(module.state_dict()).tensors
    assert [pair.name for pair in pairs_of(state)] == ["weight_hh_l0"]
    module(torch.randn(2, 3))
    found = values_of(materialised(state, pairs_of(state))["weight_hh_l0"])
    assert torch.equal(found, module.weight_hh_l0)


def test_an_axis_that_nothing_shows_is_asked_for() -> None:
    parts = {"weight_orig": torch.randn(6, 6, 3), "weight_u": torch.randn(6)}
    state = state_of({**parts, "weight_v": torch.randn(18)}).tensors
    with pytest.raises(RecipeError, match="--spectral-axis"):
        materialised(state, pairs_of(state))
    assert values_of(materialised(state, pairs_of(state), 1)["weight"]).shape == (6, 6, 3)
    with pytest.raises(RecipeError, match="--spectral-axis"):
        materialised(state, pairs_of(state), 2)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_the_axis_of_a_weight_norm_is_read_from_shapes(
    sizes: list[int], data: st.DataObject
) -> None:
    axis = data.draw(st.sampled_from([None, *range(len(sizes))]))
    length = () if axis is None else tuple(n if i == axis else 1 for i, n in enumerate(sizes))
    found = norm_axis(length, tuple(sizes))
    direction = torch.randint(-4, 5, sizes).float()  # whole: sums of squares are exact
    wanted = torch.norm_except_dim(direction, 2, -1 if axis is None else axis)
    assert found is not None
    assert torch.equal(torch.norm_except_dim(direction, 2, found).flatten(), wanted.flatten())


@pytest.mark.parametrize(
    "shapes",
    [
        {"weight_g": (3,), "weight_v": (4, 5)}, {"weight_g": (4, 5), "weight_v": (4, 5)},
        {"weight_orig": (4, 5), "weight_u": (4,), "weight_v": (4,)},
        {"weight_orig": (4, 5), "weight_mask": (5, 4)}, {"weight_g": (4, 1)},
        {"proj_g": (4, 1), "proj_v": (4, 5)}, {"weight": (1,), "weight_g": (), "weight_v": ()},
    ],
)  # fmt: skip
def test_what_only_sounds_like_parts_is_left_alone(shapes: dict[str, tuple[int, ...]]) -> None:
    state = state_of({name: torch.ones(shape) for name, shape in shapes.items()}).tensors
    assert pairs_of(state) == []


def test_other_parametrizations_are_refused_with_the_way_out() -> None:
    state = state_of(parametrizations.orthogonal(nn.Linear(4, 4)).state_dict())
    with pytest.raises(PatientError, match="remove_parametrizations"):
        refuse_leftovers(state.tensors, "f")
    with pytest.raises(PatientError, match="remove_parametrizations"):
        resolve_freely([state], Wishes(), "f")


def test_a_structure_in_parts_gets_its_parts_in_its_own_spelling() -> None:
    old = weight_norm(nn.Linear(5, 4)).state_dict()
    new = parametrizations.weight_norm(nn.Linear(5, 4)).state_dict()
    for held, wanted in ((old, new), (new, old), (old, old)):
        shapes = {f"conv.{name}": tuple(t.shape) for name, t in wanted.items()}
        state = state_of({f"module.conv.{name}": t for name, t in held.items()})
        found = resolve_towards([state], declared_as(shapes), Wishes(), "f")
        assert set(found.entries) == set(shapes)
        assert {n: e.shape for n, e in found.entries.items()} == shapes
        length = next(n for n in shapes if n.endswith(("_g", "original0")))
        origin = next(t for n, t in held.items() if n.endswith(("_g", "original0")))
        assert torch.equal(values_of(found.entries[length]), origin)
