"""How the tensors of several adapters become those of one, by PEFT's formulas.

Sums, products and decompositions: ``add_weighted_adapter`` of PEFT 0.21. TIES: arXiv 2306.01708.
DARE: arXiv 2311.03099.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import copysign, sqrt
from typing import TYPE_CHECKING

import torch

from surgery.operate.slots import seed_of
from surgery_plugins.surgeries.lora.initialisers.decomposed import one_thread

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from surgery_plugins.surgeries.lora.layout import Layout


@dataclass(frozen=True)
class Mix:
    """How numbers of several adapters become one.

    Attributes:
        how: ``linear``, ``ties``, ``dare_linear``, ``dare_ties`` or ``magnitude_prune``.
        density: share of the numbers that are kept.
        majority: how TIES elects a sign: ``total`` by the sum, ``frequency`` by the signs' sum.
        seed: seed of DARE's drops, together with ``name``.
        name: the weight's dotted name.
    """

    how: str
    density: float
    majority: str
    seed: int
    name: str

    def __call__(self, tensors: Sequence[Tensor], weights: Sequence[float], of: str) -> Tensor:
        """Mix tensors of one shape.

        Args:
            tensors: one of each adapter.
            weights: what each is multiplied with.
            of: what is mixed: ``A``, ``B`` or ``BA``; a part of the seed.
        """
        generator = torch.Generator().manual_seed(seed_of(self.seed, f"{self.name}.{of}"))
        stacked = torch.stack([self._pruned(tensor, generator) for tensor in tensors])
        factors = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device)
        weighted = stacked * factors.view(-1, *(1,) * tensors[0].dim())
        if not self.how.endswith("ties"):
            return weighted.sum(0)
        agrees = self._agrees(stacked)
        return (weighted * agrees).sum(0) / agrees.sum(0).clamp(min=1)

    def _pruned(self, tensor: Tensor, generator: Generator) -> Tensor:
        if self.how == "linear":
            return tensor
        if self.how.startswith("dare"):
            kept = torch.bernoulli(torch.full_like(tensor, self.density), generator=generator)
            return tensor * kept / self.density
        largest = tensor.abs().flatten().topk(int(self.density * tensor.numel())).indices
        mask = torch.zeros_like(tensor).flatten().index_fill(0, largest, 1)
        return tensor * mask.view_as(tensor)

    def _agrees(self, stacked: Tensor) -> Tensor:
        """Tell which numbers have the sign that the majority has; zeros have none."""
        sign = stacked.sign()
        total = (stacked if self.majority == "total" else sign).sum(0)
        return sign == torch.where(total >= 0, 1, -1)


@dataclass(frozen=True)
class Combination:
    """Compute the factors of one weight's combined adapter.

    Attributes:
        how: ``cat`` (side by side), ``svd`` (of what the adapters add to the weight) or
            ``factors`` (A with A, B with B).
        mix: how numbers are mixed, unless side by side.
        weights: what each adapter is multiplied with.
        scales: the scale of each.
        parts: how the factors of each are matrices.
        layout: how the new factors are.
    """

    how: str
    mix: Mix
    weights: tuple[float, ...]
    scales: tuple[float, ...]
    parts: tuple[Layout, ...]
    layout: Layout

    def a(self, *old: Tensor, generator: Generator) -> Tensor:
        """Give A, of A and B of each adapter in turn."""
        if self.how == "factors":
            roots = [copysign(sqrt(abs(f)), f) for f in self._strengths()]
            return self.mix(_wide(old[0::2]), roots, "A")
        pairs = self._matrices(old)
        if self.how == "cat":
            strengths = zip(pairs, self._strengths(), strict=True)
            new = torch.cat([a * strength for (a, _), strength in strengths], dim=1)
        else:
            new = self._directions(pairs)
        return new.reshape(self.layout.shape_a)

    def b(self, *old: Tensor, generator: Generator) -> Tensor:
        """Give B, of A and B of each adapter in turn and then, for ``svd``, the new A."""
        if self.how == "factors":
            return self.mix(_wide(old[1::2]), [sqrt(abs(f)) for f in self._strengths()], "B")
        if self.how == "cat":
            new = torch.cat([b for _, b in self._matrices(old)], dim=2)
        else:
            shape = (self.layout.count, self.layout.each, self.layout.inner)
            new = self._changed(self._matrices(old[:-1])) @ old[-1].view(shape).mT
        return new.reshape(self.layout.shape_b)

    def _strengths(self) -> list[float]:
        return [w * s for w, s in zip(self.weights, self.scales, strict=True)]

    def _matrices(self, old: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        wide = _wide(old)
        pairs = zip(self.parts, wide[0::2], wide[1::2], strict=True)
        return [part.factors(a, b) for part, a, b in pairs]

    def _changed(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Give what the adapters together add to the weight, ``[count, rows, inner]``."""
        each = [scale * (b @ a) for scale, (a, b) in zip(self.scales, pairs, strict=True)]
        return self.mix(each, self.weights, "BA")

    def _directions(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Give the first right singular vectors; B then is what they project the change on."""
        with one_thread():
            right = torch.linalg.svd(self._changed(pairs), full_matrices=False)[2]
        kept = right[:, : self.layout.each]
        missing = self.layout.each - kept.shape[1]
        return torch.nn.functional.pad(kept, (0, 0, 0, missing))


def _wide(tensors: Sequence[Tensor]) -> list[Tensor]:
    from surgery_plugins.surgeries.lora.arithmetic import working

    return [tensor.to(working(tensor.dtype)) for tensor in tensors]
