"""Compare a merged weight with its adapters beside the base, on random inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.linalg import vector_norm
from torch.nn.functional import linear

from surgery_plugins.surgeries.lora.arithmetic import working
from surgery_plugins.surgeries.lora.folds import Fold

if TYPE_CHECKING:
    from torch import Tensor

_EPS32 = 2.0**-23


class Beside:
    """Compare the outputs of one merged matrix with those of adapters beside the base.

    Each output may differ from ``W x + scale B (A x)`` by what one rounding of each weight and
    float32 sums can make of it: ``(eps / 2 + 64 eps32) |W'| |x|``, with the same bound on the
    base and on the low-rank path, which cancel where the result is small. Where the adapters
    are plain, ``(W' - W) x`` is compared with ``scale B (A x)``, and ``|W'| |x|`` is bounded by
    the product of lengths: two passes less.

    Args:
        folds: the adapters.
        n: number of the matrix.
        shape: rows and columns of the stored matrix.
        kept: the weight's dtype, to which the result was rounded.
        generator: draws two inputs.
    """

    def __init__(
        self,
        folds: Sequence[Fold],
        n: int,
        shape: tuple[int, int],
        kept: torch.dtype,
        generator: torch.Generator,
    ) -> None:
        self.folds, self.n, self.worst = folds, n, 0.0
        self.rounding, kind = torch.finfo(kept).eps / 2, working(kept)
        self.turned, self.coarse = folds[0].turned, any(fold.m is not None for fold in folds)
        x = torch.randn(shape[0] if self.turned else shape[1], 2, generator=generator)
        self.low = [_low(fold, n, x) for fold in folds]
        self.x = x.T.to(kind).contiguous()
        self.size, self.length = self.x.abs(), vector_norm(self.x, dim=1)
        self.total = torch.zeros(3, shape[1], 2, dtype=kind) if self.turned else None
        self.found, self.long = torch.empty(2, shape[0], dtype=kind), torch.empty(shape[0]).to(kind)

    def see(self, start: int, kept: Tensor, new: Tensor) -> None:
        """Compare some rows of the stored matrix, or add what they give to the outputs.

        Args:
            start: the first of them.
            kept: the base's values, in the dtype to calculate in.
            new: the result's values, rounded, in the dtype to calculate in; changed.
        """
        if self.total is not None:
            rows = slice(start, start + len(kept))
            self.total[0] += linear(kept.mT, self.x[:, rows])
            self.total[1] += linear(new.mT, self.x[:, rows])
            self.total[2] += linear(torch.maximum(new.abs_(), kept.abs()).mT, self.size[:, rows])
        elif self.coarse:
            plain, found = linear(kept, self.x), linear(new, self.x)
            size = linear(torch.maximum(new.abs_(), kept.abs()), self.size)
            self._compare(start, plain, found, size, kept)
        else:
            rows = slice(start, start + len(kept))
            vector_norm(new, dim=1, out=self.long[rows])
            new.sub_(kept)
            for x, found in zip(self.x, self.found, strict=True):  # faster than both at once
                torch.mv(new, x, out=found[rows])

    def error(self, last: bool) -> float:
        """Give the largest difference so far, as a share of what it may be.

        Args:
            last: True after the last rows, when outputs that all rows make up are known.
        """
        if last and self.total is not None:
            self._compare(0, *self.total)
        elif last and not self.coarse:
            size = self.long.unsqueeze(1) * self.length
            self._compare(0, torch.zeros_like(size), self.found.T, size)
        return self.worst

    def _compare(
        self, start: int, plain: Tensor, found: Tensor, size: Tensor, kept: Tensor | None = None
    ) -> None:
        """Compare outputs from number ``start`` on, all of them ``[outputs, 2]``."""
        wanted, room = plain.clone(), size.clone()
        for fold, (low, sizes) in zip(self.folds, self.low, strict=True):
            for first, last, at in fold.pieces(start, start + len(plain)):
                rows = slice(at - start, at - start + last - first)
                change, grown = low[first:last].to(plain.dtype), sizes[first:last].to(plain.dtype)
                if fold.m is not None:
                    old = kept[rows] if kept is not None else plain[:0]
                    by = fold.stretch(self.n, first, last, old).unsqueeze(1)
                    change = by * (plain[rows] + change) - plain[rows]
                    grown = by.abs() * (size[rows] + grown)
                wanted[rows] += change
                room[rows] += 2 * grown  # once more, as the base may be larger than the result
        bound = self.rounding * size + 64 * _EPS32 * (size + room)
        worst = float(((found - wanted).abs() / bound.clamp_min(1e-30)).max())
        self.worst = max(self.worst, worst)


def _low(fold: Fold, n: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Give ``scale B (A x)`` of an adapter, and the sums of sizes in it, ``[rows, 2]``."""
    a, b, strength = fold.a[n], fold.b[n], fold.branch.strength
    x = x.to(a.dtype)
    return (b @ (a @ x)) * strength, (b.abs() @ (a.abs() @ x.abs())) * abs(strength)
