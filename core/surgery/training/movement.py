"""How far one step moves what is trained, by the optimizer's group."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from surgery.training.prints import local
from surgery.training.strategy import World


class Movement:
    """Measure one step: made before the optimizer moves, asked afterwards.

    Args:
        optimizer: holds what is trained; gradients are there.
        world: the processes.
    """

    @torch.no_grad()
    def __init__(self, optimizer: torch.optim.Optimizer, world: World) -> None:
        self.world = world
        self.groups = {str(g["name"]): list(g["params"]) for g in optimizer.param_groups}
        self.norms = {
            name: self._norm(p.grad for p in group if p.grad is not None)
            for name, group in self.groups.items()
        }
        self.before = {n: [local(p).clone() for p in group] for n, group in self.groups.items()}

    @torch.no_grad()
    def shares(self) -> dict[str, float]:
        """Give the norm of what was added over the norm of what was there, by group."""
        found = {}
        for name, group in self.groups.items():
            before = self.before[name]
            spread = any(hasattr(p, "device_mesh") for p in group)
            added = torch._foreach_sub([local(p) for p in group], before)
            moved = self._norm(added, spread)
            found[name] = moved / max(1e-12, self._norm(before, spread))
        return found

    def _norm(self, tensors: Iterable[Tensor], spread: bool = False) -> float:
        found = list(tensors)
        spread = spread or any(hasattr(tensor, "device_mesh") for tensor in found)
        parts = torch._foreach_norm([local(t) for t in found], 2, torch.float32) if found else ()
        total = float(torch.stack(parts).square().sum()) if parts else 0.0
        return float((self.world.total(total) if spread else total) ** 0.5)
