"""Compare tensors in stretches: equal bits, how large the change is, and of which rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, prod
from typing import Any, TypeAlias

from surgery.checkpoint.measure import Sums
from surgery.checkpoint.pair import Pair, calculable, same_bits
from surgery.checkpoint.spectrum import Matrix, probes_for, rank_of, spectrum
from surgery.checkpoint.stored import Stored

ENERGY = 0.999
"""Share of a change's energy that a low rank must hold."""

PROBES = 64
"""The largest rank that is looked for."""

_TESTS = 16
"""Further probes, which tell whether the others missed much."""

_LARGEST = 1 << 20
"""Rows and columns together beyond which no rank is looked for: the probes alone are 320 MiB."""

_EPSILON = 1e-6
"""Share of an energy that products in float32 may lose."""

Progress: TypeAlias = Callable[[int, int], object]
"""Called with bytes compared, and bytes to compare in all."""


@dataclass(frozen=True)
class Change:
    """What became of one tensor that both sides hold.

    Attributes:
        name: its name.
        before: dtype and shape as it was.
        after: dtype and shape as it is.
        compared: how many elements were compared: all, or those of the rows that both have.
        differing: how many of them differ in value; of complex numbers, how many parts.
        norm: Frobenius norm of the change, over elements that are finite on both sides.
        relative: that norm over the norm of the same elements before; None where those are zero.
        largest: the largest change of one element.
        rank: how many singular values hold the wanted share of the change's energy, where they
            are few; of experts' matrices the largest of theirs. None where many are needed.
        nans: how many elements are NaN, before and after.
        infs: how many elements are infinite, before and after.
    """

    name: str
    before: tuple[str, tuple[int, ...]]
    after: tuple[str, tuple[int, ...]]
    compared: int
    differing: int
    norm: float
    relative: float | None
    largest: float
    rank: int | None
    nans: tuple[int, int] = (0, 0)
    infs: tuple[int, int] = (0, 0)

    def to_json(self) -> dict[str, Any]:
        """Give the change as JSON values; numbers too large for float64 are null."""
        odd = {"nans": list(self.nans), "infs": list(self.infs)}
        return {
            "name": self.name,
            "before": _kind_json(self.before),
            "after": _kind_json(self.after),
            "compared": self.compared,
            "differing": self.differing,
            "norm": _number(self.norm),
            "relative": _number(self.relative),
            "largest": _number(self.largest),
            "rank": self.rank,
            **{key: counts for key, counts in odd.items() if any(counts)},
        }


def _kind_json(kind: tuple[str, tuple[int, ...]]) -> dict[str, Any]:
    return {"dtype": kind[0], "shape": list(kind[1])}


def _number(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def compare(
    before: Mapping[str, Stored],
    after: Mapping[str, Stored],
    *,
    energy: float | None = ENERGY,
    progress: Progress = lambda done, total: None,
) -> Iterator[Change]:
    """Compare the tensors that two sides share; those that are equal in every bit are left out.

    What is known to be equal is not read. The rest is read in blocks, so memory does not grow
    with the tensors, except for the probes of a rank (``PROBES`` floats for each row and column).

    Args:
        before: the tensors of one side, by name.
        after: those of the other side.
        energy: the share that a low rank must hold; None to look for no ranks.
        progress: called after each tensor that had to be read, and at the beginning.

    Yields:
        What changed, in the order of ``before``.
    """
    pairs = [Pair(before[name], after[name]) for name in before if name in after]
    unknown = [pair for pair in pairs if not pair.before.surely_equals(pair.after)]
    total, done = sum(pair.before.bytes for pair in unknown), 0
    progress(0, total)
    for pair in unknown:
        if not same_bits(pair):
            yield change_of(pair, energy)
        done += pair.before.bytes
        progress(done, total)


def change_of(pair: Pair, energy: float | None = ENERGY) -> Change:
    """Measure a change: in float64 elements of more than 32 bits, in float32 all others."""
    sums = Sums()
    for old, new in pair.blocks(0, pair.common):
        sums.add(calculable(old), calculable(new))
    relative = sums.norm / sums.length if sums.length else None
    matrices = _matrices(pair, sums) if energy else []
    return Change(
        pair.before.name,
        (pair.before.dtype, pair.before.shape),
        (pair.after.dtype, pair.after.shape),
        pair.common,
        sums.differing,
        sums.norm,
        relative if sums.norm else 0.0,
        sums.largest,
        _largest_rank(matrices, energy or ENERGY),
        (sums.odd[0], sums.odd[1]),
        (sums.odd[2], sums.odd[3]),
    )


def matrices_of(shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Give the matrices that a tensor of a shape consists of: first element, rows, columns.

    A tensor of three axes is a matrix for each of the first; kernels of more are one matrix.
    """
    if len(shape) < 2 or not prod(shape):
        return []
    if len(shape) == 3:
        size = shape[1] * shape[2]
        return [(number * size, shape[1], shape[2]) for number in range(shape[0])]
    return [(0, shape[0], prod(shape[1:]))]


def _matrices(pair: Pair, sums: Sums) -> list[Matrix]:
    """Give a change as matrices in units of its largest element, or none where it has no rank."""
    shape = pair.before.shape
    odd = any(sums.odd) or "complex" in pair.before.dtype + pair.after.dtype
    measured = 0 < sums.norm < inf
    if odd or not measured or shape != pair.after.shape or sum(shape) > _LARGEST:
        return []
    return [
        Matrix(rows, columns, partial(pair.rows, first, rows, columns, sums.largest))
        for first, rows, columns in matrices_of(shape)
    ]


def _largest_rank(matrices: list[Matrix], energy: float) -> int | None:
    """Give the largest rank of several matrices, or None where one has no low rank."""
    ranks = []
    for matrix in matrices:
        rank = _low_rank(matrix, energy)
        if rank is None:
            return None
        ranks.append(rank)
    return max(ranks, default=None)


def _low_rank(matrix: Matrix, share: float) -> int | None:
    """Give the numerical rank where it is at most half of what it could be.

    The first probes span a range; how much of the other probes' products lies outside tells what
    the range misses, so that most matrices of full rank are read once here.
    """
    import torch

    products, energy = matrix.sketched(probes_for(matrix, PROBES + _TESTS))
    sketch, tests = products[:, :PROBES], products[:, PROBES:]
    q = torch.linalg.qr(sketch)[0]
    missed = float((tests - q @ (q.mT @ tests)).double().square().sum())
    whole = float(tests.double().square().sum())
    if missed > 2 * (1 - share) * whole + _EPSILON * whole:
        return None
    rank = rank_of(spectrum(matrix, sketch).s, share, energy)
    return rank if 0 < rank <= matrix.most // 2 else None
