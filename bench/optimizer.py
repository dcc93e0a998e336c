"""Clip and AdamW on 448 LoRA tensors: flat buffers beside torch's own forms (goals, row 10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench.rounds import rounds

COUNT = 448
GOALS = {10_000_000: 0.5, 300_000: 0.2}
"""Of torch's default at most, by number of parameters."""


def run(*, quick: bool = False) -> dict[str, Any]:
    """Time one clip and one step, and compare what they give."""
    torch.set_num_threads(1)
    rows, verdicts = [], []
    for total, goal in GOALS.items():
        sides = {name: _Side(total, make) for name, make in _MAKERS.items()}
        times = rounds({name: side.step for name, side in sides.items()}, 5 if quick else 25)
        rows += [{"parameters": total, "what": name, **time} for name, time in times.items()]
        share = times["surgery"]["median"] / times["torch default"]["median"]
        verdicts.append(
            f"{COUNT} tensors, {total / 1e6:g}M: {share:.3f} of torch's default (goal {goal}: "
            f"{'met' if share <= goal else 'missed'}); {_same(sides)}"
        )
    return {"what": "clip and AdamW, CPU ms", "rows": rows, "verdicts": verdicts}


class _Side:
    """The same tensors and gradients for everybody.

    Args:
        total: number of parameters, about.
        make: builds what clips and steps.
    """

    def __init__(self, total: int, make: Callable[[list[nn.Parameter]], Callable[[], Any]]) -> None:
        drawn = torch.Generator().manual_seed(0)
        width = max(1, total // COUNT // 16)
        shapes = [(16, width) if n % 2 else (width, 16) for n in range(COUNT)]
        self.parameters = [nn.Parameter(torch.randn(s, generator=drawn)) for s in shapes]
        self.step = make(self.parameters)
        for p in self.parameters:
            p.grad = torch.randn(p.shape, generator=drawn)


def _ours(parameters: list[nn.Parameter]) -> Callable[[], Any]:
    from surgery.recipe.train_form import OptimizerForm
    from surgery.training.optimize import Group, clip, optimizer_of

    named = {str(number): p for number, p in enumerate(parameters)}
    form = OptimizerForm(lr=1e-4)
    optimizer = optimizer_of(named, [Group("rest", tuple(named), form.lr, 0.0)], form)

    def step() -> None:
        clip(optimizer, 1.0)
        optimizer.step()

    return step


def _torchs(**settings: bool) -> Callable[[list[nn.Parameter]], Callable[[], Any]]:
    def make(parameters: list[nn.Parameter]) -> Callable[[], Any]:
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, **settings)

        def step() -> None:
            float(nn.utils.clip_grad_norm_(parameters, 1.0))
            optimizer.step()

        return step

    return make


_MAKERS = {
    "torch default": _torchs(),
    "torch foreach": _torchs(foreach=True),
    "torch fused": _torchs(fused=True),
    "surgery": _ours,
}


def _same(sides: dict[str, _Side]) -> str:
    """Say how far the tensors are from torch's after the same number of steps."""
    pairs = zip(sides["surgery"].parameters, sides["torch default"].parameters, strict=True)
    worst = max(float((p - q).detach().abs().max()) for p, q in pairs)
    return f"largest difference {worst:.1e}"
