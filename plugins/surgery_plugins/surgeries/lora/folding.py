"""Fold adapters into a weight, a block of rows at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import frexp, prod
from typing import TYPE_CHECKING

import torch

from surgery.operate.stretches import Stretches, joined
from surgery_plugins.surgeries.lora.arithmetic import working
from surgery_plugins.surgeries.lora.beside import Beside
from surgery_plugins.surgeries.lora.branch import CONV
from surgery_plugins.surgeries.lora.folds import Adapter, Fold, fold_of, rows_at_once

if TYPE_CHECKING:
    from torch import Tensor


def merged(base: Tensor, adapters: Sequence[Adapter]) -> Tensor:
    """Give a weight with adapters folded in, as ``folded`` does, without its comparison."""
    made = (piece for piece, _ in folded(Stretches(base), adapters))
    return joined(made, tuple(base.shape), base.dtype)


@torch.no_grad()
def folded(
    weight: Stretches, adapters: Sequence[Adapter], generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, float]]:
    """Give a weight with adapters folded in: float32 arithmetic, one rounding.

    Each adapter adds its own difference to the base, as it does beside it: ``scale * B A``, or
    DoRA's ``m / ||W + scale B A|| (W + scale B A) - W`` (arXiv 2402.09353, equation 5).

    Args:
        weight: the base weight.
        adapters: the adapters, with A, B and magnitudes (or None) of each.
        generator: draws the inputs on which outputs are compared; without it they are not.

    Returns:
        Consecutive pieces of a tensor of the weight's shape and dtype, and with each the largest
        difference of an output so far, as a share of what it may be; see ``Beside``.
    """
    folds = _folds(weight, adapters)
    if not folds:
        yield from ((old, 0.0) for old in weight.in_rows())
        return
    count, rows, inner = _matrices(weight, folds)
    work = torch.empty(2, rows_at_once(inner), inner, dtype=working(weight.dtype))
    for n in range(count):
        beside = generator and Beside(folds, n, (rows, inner), weight.dtype, generator)
        for start, old in _stored(weight, n, rows, inner):
            kept, block = work[0, : len(old)], work[1, : len(old)]
            _fold(block, kept.copy_(old), folds, n, start)
            new = torch.empty_like(old).copy_(block)
            if beside:
                beside.see(start, kept, block.copy_(new))
            last = start + len(old) == rows
            yield new, beside.error(last) if beside else 0.0


@torch.no_grad()
def largest_error(
    base: Tensor, result: Tensor, adapters: Sequence[Adapter], generator: torch.Generator
) -> float:
    """Compare a merged weight with the adapters beside their base, on random inputs.

    Args:
        base: the base weight.
        result: the merged weight.
        adapters: the adapters, with A, B and magnitudes (or None) of each.
        generator: draws the inputs, two for each matrix.

    Returns:
        The largest difference of an output, as a share of what it may be; see ``Beside``.
    """
    weight, kind = Stretches(base), working(base.dtype)
    folds = _folds(weight, adapters)
    if not folds:
        return 0.0 if torch.equal(base, result) else float("inf")
    count, rows, inner = _matrices(weight, folds)
    found, worst = result.contiguous().view(count, rows, inner), 0.0
    for n in range(count):
        beside = Beside(folds, n, (rows, inner), weight.dtype, generator)
        for start, old in _stored(weight, n, rows, inner):
            beside.see(start, old.to(kind), found[n, start : start + len(old)].to(kind, copy=True))
        worst = max(worst, beside.error(last=True))
    return worst


def _folds(weight: Stretches, adapters: Sequence[Adapter]) -> list[Fold]:
    return [fold_of(adapter, weight) for adapter in adapters if adapter[0].strength]


def _stored(weight: Stretches, n: int, rows: int, inner: int) -> Iterator[tuple[int, Tensor]]:
    """Give a stored matrix a block at a time, ``[rows, inner]``, and the first row of each."""
    step = rows_at_once(inner)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        begin = n * rows
        old = weight.flat((begin + start) * inner, (begin + stop) * inner)
        yield start, old.view(stop - start, inner)


def _fold(block: Tensor, kept: Tensor, folds: Sequence[Fold], n: int, start: int) -> None:
    """Calculate a block of the result from the base's values of it."""
    first = folds[0]
    if len(folds) > 1 or not first.is_plain or first.a.dtype != block.dtype:
        block.copy_(kept)
        for fold in folds:
            fold.add(block, kept, n, start)
        return
    strength = first.branch.strength
    b = first.b[n][start : start + len(block)]
    if exact := abs(frexp(strength)[0]) == 0.5:  # a power of two rounds nothing
        b = b * strength
    torch.mm(b, first.a[n], out=block)
    if not exact:
        block.mul_(strength)
    block.add_(kept)


def _matrices(weight: Stretches, folds: Sequence[Fold]) -> tuple[int, int, int]:
    """Give the number of matrices of a weight (experts, or groups), and the shape of each."""
    branch, shape = folds[0].branch, weight.shape
    if branch.kind == CONV:
        count, inner = folds[0].a.shape[0], prod(shape[1:])
    else:
        count, inner = shape[0] if len(shape) == 3 else 1, shape[-1]
    return count, prod(shape) // (count * inner), inner
