"""Singular values and vectors of matrices too large to hold, by products with thin ones.

Halko, Martinsson, Tropp: Finding structure with randomness, arXiv 0909.4061, algorithms 4.4 (the
range, by subspace iteration) and 5.1 (the factors).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from surgery.checkpoint.measure import length

if TYPE_CHECKING:
    from torch import Tensor

Blocks: TypeAlias = "Callable[[], Iterator[Tensor]]"
"""Gives the rows of a matrix from first to last, some at a time, anew at every call."""

_SPARE = 8
"""Probes beyond the wanted rank and its half."""

_FIRST = 32
"""Probes with which a search for an unknown rank begins."""


@dataclass(frozen=True)
class Matrix:
    """A matrix that is read in blocks of rows, in float32.

    Attributes:
        rows: number of rows, m.
        columns: number of columns, n.
        blocks: gives its rows.
    """

    rows: int
    columns: int
    blocks: Blocks

    @property
    def most(self) -> int:
        """The largest rank that it can have."""
        return min(self.rows, self.columns)

    def times(self, right: Tensor) -> Tensor:
        """Give the product with ``[n, k]``, as ``[m, k]``."""
        return self.sketched(right)[0]

    def sketched(self, right: Tensor) -> tuple[Tensor, float]:
        """Give the product with ``[n, k]`` and the matrix's energy, in one pass.

        Returns:
            The product, ``[m, k]``, and the square of the Frobenius norm, to a part in a million.
        """
        import torch

        product, start, energy = torch.empty(self.rows, right.shape[1]), 0, 0.0
        for block in self.blocks():
            torch.mm(block, right, out=product[start : start + len(block)])
            energy += length(block) ** 2
            start += len(block)
        return product, energy

    def energy(self) -> float:
        """Give the square of the Frobenius norm, to a part in a million."""
        return sum(length(block) ** 2 for block in self.blocks())

    def held(self) -> Matrix:
        """Give the same matrix, read once and kept in memory."""
        import torch

        whole = torch.cat(list(self.blocks()))
        return Matrix(self.rows, self.columns, lambda: iter((whole,)))

    def turned_times(self, left: Tensor) -> Tensor:
        """Give the product of the transpose with ``[m, k]``, as ``[n, k]``."""
        result, start = left.new_zeros(self.columns, left.shape[1]), 0
        for block in self.blocks():
            result += block.mT @ left[start : start + len(block)]
            start += len(block)
        return result


@dataclass(frozen=True)
class Spectrum:
    """The leading part of a singular value decomposition ``U S V^T``.

    Attributes:
        u: left vectors, ``[m, k]``.
        s: singular values, ``[k]``, the largest first.
        v: right vectors, ``[n, k]``.
    """

    u: Tensor
    s: Tensor
    v: Tensor

    def cut(self, rank: int) -> Spectrum:
        """Keep the leading part of a rank alone."""
        return Spectrum(self.u[:, :rank], self.s[:rank], self.v[:, :rank])


def probes_for(matrix: Matrix, count: int, seed: int = 0) -> Tensor:
    """Draw standard normal probes ``[n, count]`` in float32, the same at every call."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randn(matrix.columns, count, generator=generator)


def spectrum(matrix: Matrix, sketch: Tensor) -> Spectrum:
    """Decompose a matrix within the range of a sketch; one pass over the matrix.

    Args:
        matrix: what to decompose.
        sketch: the matrix times probes, ``[m, k]``.

    Returns:
        As many singular values as the sketch has columns, at most those that the matrix has. None
        is larger than the matrix's own.
    """
    import torch

    q = torch.linalg.qr(sketch)[0]
    v, s, wt = torch.linalg.svd(matrix.turned_times(q), full_matrices=False)
    return Spectrum(q @ wt.mT, s, v).cut(matrix.most)


def leading(matrix: Matrix, count: int, rounds: int = 3) -> Spectrum:
    """Give the leading singular values and vectors.

    Args:
        matrix: what to decompose.
        count: how many.
        rounds: rounds of subspace iteration, of two passes each; none are needed, and none made,
            where the probes span all rows or columns.
    """
    import torch

    probes = min(count + count // 2 + _SPARE, matrix.most)
    sketch = matrix.times(probes_for(matrix, probes))
    for _ in range(rounds if probes < matrix.most else 0):
        inner = torch.linalg.qr(matrix.turned_times(torch.linalg.qr(sketch)[0]))[0]
        sketch = matrix.times(inner)
    return spectrum(matrix, sketch).cut(min(count, matrix.most))


def holding(matrix: Matrix, share: float, energy: float) -> Spectrum:
    """Give the smallest leading part that holds a share of a matrix's energy.

    Args:
        matrix: what to decompose.
        share: the share, above 0 and at most 1; where float32 cannot tell, all that it can.
        energy: the square of the matrix's Frobenius norm.
    """
    count = _FIRST
    while True:
        found = leading(matrix, min(count, matrix.most))
        rank = rank_of(found.s, share, energy)
        if rank or count >= matrix.most:
            return found.cut(rank or matrix.most)
        count = 4 * count if 16 * count <= matrix.most else matrix.most


def rank_of(values: Tensor, share: float, energy: float) -> int:
    """Give how many of the largest singular values hold a share of an energy; 0 if all do not."""
    held = values.double().square().cumsum(0)
    enough = (held >= share * energy * (1 - _EPSILON)).nonzero()
    return int(enough[0]) + 1 if len(enough) else 0


_EPSILON = 1e-6
"""Relative error of energies that products in float32 leave."""
