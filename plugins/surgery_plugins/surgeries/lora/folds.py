"""One adapter as stacks of matrices, and what it adds to a block of a weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from surgery_plugins.surgeries.lora.arithmetic import by_length, norms, working
from surgery_plugins.surgeries.lora.branch import CONV, Branch

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.operate.stretches import Stretches

Adapter: TypeAlias = "tuple[Branch, Tensor, Tensor, Tensor | None]"
"""An adapter with its tensors A, B and, for DoRA, M."""

BLOCK = 1 << 19
"""Elements of a stored matrix, about, that are calculated at a time: as many as a cache holds."""


@dataclass(frozen=True)
class Fold:
    """One adapter as stacks of matrices: A ``[count, r, inner]``, B ``[count, rows, r]``.

    Attributes:
        branch: the adapter.
        a: A.
        b: B.
        m: DoRA's magnitudes, or None.
        by: DoRA's factors, where outputs are columns of the stored matrix.
        turned: True where they are.
    """

    branch: Branch
    a: Tensor
    b: Tensor
    m: Tensor | None
    by: Tensor | None
    turned: bool

    @property
    def is_plain(self) -> bool:
        """Tell whether each block of rows is just ``scale B A`` of the same rows."""
        return not (self.turned or self.branch.ranges) and self.m is None

    def add(self, block: Tensor, kept: Tensor, n: int, start: int) -> None:
        """Add the adapter's difference to a block of a stored matrix.

        Args:
            block: ``[block, inner]``, changed in place.
            kept: the base's values of the block.
            n: number of the matrix.
            start: the block's first row.
        """
        stop = start + block.shape[0]
        if self.turned:
            change = (self.a[n][:, start:stop].mT @ self.b[n].mT) * self.branch.strength
            for first, last, at in self.pieces(0, self.width):
                self._into(block[:, at : at + last - first], kept, at, change, first, last)
            return
        for first, last, at in self.pieces(start, stop):
            rows = slice(at - start, at - start + last - first)
            change = self._change(n, first, last)
            if self.m is not None:
                whole = kept[rows] + change
                change = self._by(n, first, last, whole).unsqueeze(1) * whole - kept[rows]
            block[rows] += change

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Give the adapter's rows among the weight's: first, last, and the weight's first row."""
        done = 0
        for low, high in self.branch.ranges or ((0, self.width),):
            first, last = max(low, start), min(high, stop)
            if first < last:
                yield done + first - low, done + last - low, first
            done += high - low

    def stretch(self, n: int, first: int, last: int, kept: Tensor) -> Tensor:
        """Give DoRA's factors of some of the adapter's rows, ``[last - first]``.

        Args:
            n: number of the matrix.
            first: the first row.
            last: the row behind the last one.
            kept: the base's values of these rows, where outputs are rows.
        """
        if self.by is not None:
            return self.by[first:last]
        return self._by(n, first, last, kept + self._change(n, first, last))

    def _change(self, n: int, first: int, last: int) -> Tensor:
        return (self.b[n][first:last] @ self.a[n]) * self.branch.strength

    def _by(self, n: int, first: int, last: int, whole: Tensor) -> Tensor:
        assert self.m is not None
        low = n * self.b.shape[1]
        return by_length(self.m[low + first : low + last], norms(whole, 0))

    def _into(
        self, target: Tensor, kept: Tensor, at: int, change: Tensor, first: int, last: int
    ) -> None:
        """Add columns ``first`` to ``last`` of a change to a part of a block."""
        part = change[:, first:last]
        if self.by is not None:
            old = kept[:, at : at + last - first]
            part = self.by[first:last] * (old + part) - old
        target += part

    @property
    def width(self) -> int:
        """Number of the weight's output rows in each matrix, where the adapter has them all."""
        ranges = self.branch.ranges
        return max(stop for _, stop in ranges) if ranges else int(self.b.shape[1])


def rows_at_once(inner: int) -> int:
    """Give the number of rows that are calculated at a time, of matrices so wide."""
    return max(BLOCK // (inner or 1), 1)


def fold_of(adapter: Adapter, weight: Stretches) -> Fold:
    """Give an adapter's tensors as stacks of matrices, in the dtype to calculate in."""
    branch, a, b, m = adapter
    a, b = a.to(working(a.dtype)), b.to(working(b.dtype))
    if branch.kind == CONV:
        groups = a.shape[0] // b.shape[1]
        a = a.reshape(groups, a.shape[0] // groups, -1)
        b = b.reshape(groups, b.shape[0] // groups, -1)
        return Fold(branch, a, b, m, None, False)
    turned = branch.out_axis == len(weight.shape) - 1
    a, b = (a, b) if a.ndim == 3 else (a.unsqueeze(0), b.unsqueeze(0))
    by = _stretch(branch, a, b, m, weight) if turned and m is not None else None
    return Fold(branch, a, b, m, by, turned)


def _stretch(branch: Branch, a: Tensor, b: Tensor, m: Tensor, weight: Stretches) -> Tensor:
    """Give DoRA's factors of a weight whose columns are outputs, ``[rows]``."""
    kind = working(weight.dtype)
    squares = torch.zeros(b.shape[1], dtype=kind)
    plain = Fold(branch, a, b, None, None, True)
    ranges = branch.ranges or ((0, b.shape[1]),)
    step = rows_at_once(weight.shape[1])
    for start in range(0, weight.shape[0], step):
        block = weight.rows(start, min(start + step, weight.shape[0])).to(kind, copy=True)
        plain.add(block, block, 0, start)
        columns = torch.cat([block[:, low:high] for low, high in ranges], 1)
        squares += columns.square().sum(0)
    return by_length(m, squares.sqrt())
