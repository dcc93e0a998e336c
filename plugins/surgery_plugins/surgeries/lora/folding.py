"""Fold adapters into a weight, a block of rows at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from surgery_plugins.surgeries.lora.arithmetic import by_length, norms, working
from surgery_plugins.surgeries.lora.branch import CONV, Branch

if TYPE_CHECKING:
    from torch import Tensor

Adapter: TypeAlias = "tuple[Branch, Tensor, Tensor, Tensor | None]"
"""An adapter with its tensors A, B and, for DoRA, M."""

BLOCK = 64
"""Rows of a stored matrix that are calculated at a time."""

_EPS32 = 2.0**-23


@torch.no_grad()
def merged(base: Tensor, adapters: Sequence[Adapter]) -> Tensor:
    """Give a weight with adapters folded in: float32 arithmetic, one rounding.

    Each adapter adds its own difference to the base, as it does beside it: ``scale * B A``, or
    DoRA's ``m / ||W + scale B A|| (W + scale B A) - W`` (arXiv 2402.09353, equation 5).

    Args:
        base: the base weight.
        adapters: the adapters, with A, B and magnitudes (or None) of each.

    Returns:
        A tensor of the base's shape and dtype.
    """
    result = torch.empty_like(base, memory_format=torch.contiguous_format)
    active = [adapter for adapter in adapters if adapter[0].strength]
    folds = [_fold_of(adapter, base) for adapter in active]
    count = _count(active, base)
    old = base.contiguous().view(count, -1, _inner(active, base))
    new = result.view(old.shape)
    for n in range(count):
        for start in range(0, old.shape[1], BLOCK):
            rows = slice(start, start + BLOCK)
            kept = old[n, rows].to(working(base.dtype))
            block = kept.clone()
            for fold in folds:
                fold.add(block, kept, n, start)
            new[n, rows] = block
    return result


@torch.no_grad()
def largest_error(
    base: Tensor, result: Tensor, adapters: Sequence[Adapter], generator: torch.Generator
) -> float:
    """Compare a merged weight with the adapters beside their base, on random inputs.

    Each output of the merged weight may differ from ``W x + scale B (A x)`` by what one rounding
    of each weight and float32 sums can make of it: ``(eps / 2 + 64 eps32) |W'| |x|``, with the
    same bound on the base and on the low-rank path, which cancel where the result is small.

    Args:
        base: the base weight.
        result: the merged weight.
        adapters: the adapters, with A, B and magnitudes (or None) of each.
        generator: draws the inputs, two for each matrix.

    Returns:
        The largest difference, as a share of what it may be.
    """
    active = [adapter for adapter in adapters if adapter[0].strength]
    if not active:
        return 0.0 if torch.equal(base, result) else float("inf")
    rounding = torch.finfo(base.dtype).eps / 2
    worst = 0.0
    shape = (_count(active, base), -1, _inner(active, base))
    old, new = base.contiguous().view(shape), result.view(shape)
    folds = [_fold_of(adapter, base) for adapter in active]
    for n in range(old.shape[0]):
        turned = folds[0].turned
        x = torch.randn(old.shape[1 if turned else 2], 2, generator=generator)
        wanted, room = _beside(old[n], folds, n, x)
        found, size = _applied(new[n], x, turned)
        bound = rounding * size + 64 * _EPS32 * (size + room)
        worst = max(worst, float(((found - wanted).abs() / bound.clamp_min(1e-30)).max()))
    return worst


def _beside(matrix: Tensor, folds: Sequence[_Fold], n: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Give the outputs of a stored matrix with adapters beside it, and the sums of sizes."""
    turned = folds[0].turned
    plain, room = _applied(matrix, x, turned)
    out = plain.clone()
    for fold in folds:
        a, b, rows = fold.a[n].to(x.dtype), fold.b[n].to(x.dtype), fold.rows(plain.shape[0])
        low = (b @ (a @ x)) * fold.branch.strength
        sizes = (b.abs() @ (a.abs() @ x.abs())) * abs(fold.branch.strength)
        if fold.m is not None:
            by = fold.by if fold.by is not None else fold.stretch(matrix, n)
            low = by.unsqueeze(1) * (plain[rows] + low) - plain[rows]
            sizes = by.abs().unsqueeze(1) * (room[rows] + sizes)
        out[rows] += low.to(out.dtype)
        room = room.index_add(0, rows, sizes.to(room.dtype))
    return out, room


def _applied(matrix: Tensor, x: Tensor, turned: bool) -> tuple[Tensor, Tensor]:
    """Give ``W x`` and ``|W| |x|`` of a stored matrix, block by block."""
    kind = working(matrix.dtype)
    x = x.to(kind)
    if not turned:
        pairs = [_product(matrix[i : i + BLOCK].to(kind), x) for i in _starts(matrix)]
        return torch.cat([one for one, _ in pairs]), torch.cat([size for _, size in pairs])
    total = torch.zeros(matrix.shape[1], x.shape[1], dtype=kind)
    size = torch.zeros_like(total)
    for start in _starts(matrix):
        rows = slice(start, start + BLOCK)
        one, its = _product(matrix[rows].to(kind).mT, x[rows])
        total += one
        size += its
    return total, size


def _product(w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return w @ x, w.abs() @ x.abs()


def _starts(matrix: Tensor) -> range:
    return range(0, matrix.shape[0], BLOCK)


@dataclass(frozen=True)
class _Fold:
    """One adapter as stacks of matrices: A ``[count, r, inner]``, B ``[count, rows, r]``."""

    branch: Branch
    a: Tensor
    b: Tensor
    m: Tensor | None
    by: Tensor | None
    turned: bool

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
            for first, last, at in self._pieces(0, self._width):
                self._into(block[:, at : at + last - first], kept, at, change, first, last)
            return
        for first, last, at in self._pieces(start, stop):
            change = (self.b[n][first:last] @ self.a[n]) * self.branch.strength
            rows = slice(at - start, at - start + last - first)
            if self.m is not None:
                whole = kept[rows] + change
                low = n * self.b.shape[1]
                by = by_length(self.m[low + first : low + last], norms(whole, 0)).unsqueeze(1)
                change = by * whole - kept[rows]
            block[rows] += change

    def _into(
        self, target: Tensor, kept: Tensor, at: int, change: Tensor, first: int, last: int
    ) -> None:
        """Add columns ``first`` to ``last`` of a change to a part of a block."""
        part = change[:, first:last]
        if self.by is not None:
            old = kept[:, at : at + last - first]
            part = self.by[first:last] * (old + part) - old
        target += part

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Give the adapter's rows among the weight's: first, last, and the weight's first row."""
        done = 0
        for low, high in self.branch.ranges or ((0, self._width),):
            first, last = max(low, start), min(high, stop)
            if first < last:
                yield done + first - low, done + last - low, first
            done += high - low

    def rows(self, count: int) -> Tensor:
        """Give the numbers of the adapter's output rows, of so many."""
        ranges = self.branch.ranges or ((0, count),)
        return torch.cat([torch.arange(low, high) for low, high in ranges])

    def stretch(self, matrix: Tensor, n: int) -> Tensor:
        """Give DoRA's factors of a stored matrix whose rows are outputs, ``[rows]``."""
        assert self.m is not None
        lengths = []
        for first, last, at in self._pieces(0, self._width):
            for start in range(first, last, BLOCK):
                stop = min(start + BLOCK, last)
                kept = matrix[at + start - first : at + stop - first].to(self.a.dtype)
                change = (self.b[n][start:stop] @ self.a[n]) * self.branch.strength
                lengths.append(norms(kept + change, 0))
        low = n * self.b.shape[1]
        return by_length(self.m[low : low + self.b.shape[1]], torch.cat(lengths))

    @property
    def _width(self) -> int:
        """Number of the weight's output rows in each matrix, where the adapter has them all."""
        ranges = self.branch.ranges
        return max(stop for _, stop in ranges) if ranges else int(self.b.shape[1])


def _fold_of(adapter: Adapter, base: Tensor) -> _Fold:
    branch, a, b, m = adapter
    a, b = a.to(working(a.dtype)), b.to(working(b.dtype))
    if branch.kind == CONV:
        groups = a.shape[0] // b.shape[1]
        a = a.reshape(groups, a.shape[0] // groups, -1)
        b = b.reshape(groups, b.shape[0] // groups, -1)
        return _Fold(branch, a, b, m, None, False)
    turned = branch.out_axis == base.ndim - 1
    a, b = (a, b) if a.ndim == 3 else (a.unsqueeze(0), b.unsqueeze(0))
    by = _stretch(branch, a[0], b[0], m, base) if turned and m is not None else None
    return _Fold(branch, a, b, m, by, turned)


def _stretch(branch: Branch, a: Tensor, b: Tensor, m: Tensor, base: Tensor) -> Tensor:
    """Give DoRA's factors of a weight whose columns are outputs, ``[rows]``."""
    squares = torch.zeros(b.shape[0], dtype=working(base.dtype))
    plain = _Fold(branch, a.unsqueeze(0), b.unsqueeze(0), None, None, True)
    for start in range(0, base.shape[0], BLOCK):
        block = base[start : start + BLOCK].to(working(base.dtype), copy=True)
        plain.add(block, block, 0, start)
        ranges = branch.ranges or ((0, b.shape[0]),)
        columns = torch.cat([block[:, low:high] for low, high in ranges], 1)
        squares += columns.square().sum(0)
    return by_length(m, squares.sqrt())


def _count(adapters: Sequence[Adapter], base: Tensor) -> int:
    """Give the number of matrices of a weight: experts, groups of a convolution, or one."""
    if base.ndim == 3 and adapters and adapters[0][0].kind != CONV:
        return base.shape[0]
    kernels = [a.shape[0] // b.shape[1] for branch, a, b, _ in adapters if branch.kind == CONV]
    return kernels[0] if kernels else 1


def _inner(adapters: Sequence[Adapter], base: Tensor) -> int:
    """Give the columns of each stored matrix."""
    if adapters and adapters[0][0].kind == CONV:
        return base[0].numel()
    return base.shape[-1]
