"""A walk folded over repeated layers reads what a walk of every layer reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("transformers")

from surgery.anatomy import handlers  # noqa: F401  (registers what the tracer handles)
from surgery.anatomy.alike import alike
from surgery.anatomy.inputs import guesses
from surgery.anatomy.observe import observe
from surgery.anatomy.observed import Observed
from surgery.anatomy.stand_in import on_meta
from surgery.anatomy.walk import walk
from tests.zoo.architectures import build, class_names, model_types

DEPTH = 8
SAMPLE = ("llama", "t5", "whisper", "gemma3_text", "swin")


def told(seen: Observed) -> dict[str, object]:
    roles = {n: (r.roles, r.rows) for n, r in seen.readings.items()}
    modes = {n: {m for o in r.origins for m in o.modes} for n, r in seen.readings.items()}
    return {
        "roles": roles,
        "modes": modes,
        "attention": sorted(map(sorted, seen.attention)),
        "mlp": sorted(map(sorted, seen.mlp)),
        "calls": seen.calls,
        "direct": seen.direct,
        "notes": sorted(seen.notes),
    }


def compared(model_type: str) -> tuple[int, list[str]]:
    """Compare both walks of a model type's classes; give how many forwards ran, and differences."""
    ran, wrong = 0, []
    for name in class_names(model_type):
        try:
            model = build(model_type, name, DEPTH)
        except Exception:
            continue
        with on_meta(model):
            for guess in guesses(model):
                folded, whole = observe(model, guess), observe(model, guess, fold=False)
                if folded.failure != whole.failure:
                    wrong.append(f"{name}: {folded.failure!r}, {whole.failure!r}")
                if whole.failure:
                    continue
                ran += 1
                one, other = told(folded), told(whole)
                wrong += [f"{name}: {key}" for key in one if one[key] != other[key]]
                break
    return ran, wrong


@pytest.mark.parametrize("model_type", SAMPLE)
def test_a_folded_walk_reads_the_same(model_type: str) -> None:
    ran, wrong = compared(model_type)
    assert ran
    assert wrong == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_folded_walk_reads_the_same_on_every_tenth_architecture() -> None:
    """All of them: ``python -m tests.anatomy.test_fold``."""
    ran, wrong = _all(model_types()[::10])
    assert wrong == []
    assert ran >= 33


def _all(types: list[str]) -> tuple[int, list[str]]:
    ran, wrong = 0, []
    for model_type in types:
        more, found = compared(model_type)
        ran, wrong = ran + more, wrong + found
    return ran, wrong


RAN: list[int] = []


class Mixer(nn.Module):
    """A residual layer that may look at its own number."""

    def __init__(self, number: int, odd: bool = False) -> None:
        super().__init__()
        self.idx, self.odd = number, odd
        self.up, self.down, self.extra = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        RAN.append(self.idx)
        hidden = self.down(F.gelu(self.up(x)))
        return x + (self.extra(hidden) if self.odd and self.idx == 6 else hidden)


class Stack(nn.Module):
    def __init__(self, odd: bool = False, tied: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Mixer(n, odd) for n in range(7))
        if tied:
            self.layers[4].up.weight = self.layers[1].up.weight

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_layers_that_are_alike_run_no_more_than_four_times() -> None:
    model = Stack()
    RAN.clear()
    walk(model, {"x": torch.zeros(1, 3, 8)})
    assert RAN == [0, 1, 2, 6]
    assert all("forward" not in vars(layer) for layer in model.layers)


@pytest.mark.parametrize("model", [Stack(odd=True), Stack(tied=True)], ids=["odd", "tied"])
def test_a_fold_that_does_not_hold_is_given_up(model: Stack) -> None:
    RAN.clear()
    walk(model, {"x": torch.zeros(1, 3, 8)})
    assert RAN[-7:] == list(range(7))


def test_layers_with_hooks_or_other_values_are_not_alike() -> None:
    model = Stack()
    model.layers[2].register_forward_hook(lambda m, a, o: None)
    model.layers[3].up = nn.Linear(8, 16, bias=False)
    model.layers[4].odd = True
    assert alike(model) == [["layers.0", "layers.1", "layers.5", "layers.6"]]


if __name__ == "__main__":
    print(*_all(model_types()))
