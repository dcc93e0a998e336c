"""One tensor before and after, read in stretches and compared bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.checkpoint.stored import Stored

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = 1 << 21
"""Elements that are compared at a time."""


@dataclass(frozen=True)
class Pair:
    """One tensor before and after.

    Attributes:
        before: as it was.
        after: as it is.
    """

    before: Stored
    after: Stored

    @property
    def common(self) -> int:
        """How many leading elements can be compared: all, or those of rows that both have."""
        old, new = self.before.shape, self.after.shape
        if old == new:
            return self.before.count
        alike = len(old) == len(new) > 0 and old[1:] == new[1:]
        return min(self.before.count, self.after.count) if alike else 0

    def blocks(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the elements of both from one number to another, as stored, some at a time."""
        for low in range(start, stop, BLOCK):
            high = min(low + BLOCK, stop)
            yield self.before.read(low, high), self.after.read(low, high)

    def rows(self, first: int, rows: int, columns: int, unit: float = 1.0) -> Iterator[Tensor]:
        """Give the change as rows of a matrix in float32, some at a time.

        Args:
            first: number of the element with which the matrix begins.
            rows: rows of the matrix.
            columns: columns of the matrix.
            unit: what the change is divided by.
        """
        step = max(1, BLOCK // max(columns, 1))
        for row in range(0, rows, step):
            begin, end = first + row * columns, first + min(row + step, rows) * columns
            parts = [calculable(new) - calculable(old) for old, new in self.blocks(begin, end)]
            yield _joined(parts).div(unit).float().reshape(-1, columns)


def same_bits(pair: Pair) -> bool:
    """Tell whether two tensors are equal in dtype, shape and every bit; stop where they differ."""
    old, new = pair.before, pair.after
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return False
    return old.surely_equals(new) or all(_same(a, b) for a, b in pair.blocks(0, old.count))


def same_values(pair: Pair) -> bool:
    """Tell whether two tensors are equal in shape and in every value, whatever their dtypes."""
    old, new = pair.before, pair.after
    if old.shape != new.shape:
        return False
    blocks = pair.blocks(0, old.count)
    return old.surely_equals(new) or not any(_differ(*block) for block in blocks)


def _same(old: Tensor, new: Tensor) -> bool:
    """Compare two blocks bit by bit."""
    import torch

    return torch.equal(_bytes(old), _bytes(new))


def _differ(old: Tensor, new: Tensor) -> bool:
    """Tell whether a value differs; a NaN is equal to a NaN of the same bits alone."""
    alike = old.dtype == new.dtype and _same(old, new)
    return not alike and bool((calculable(old) != calculable(new)).any())


def _bytes(block: Tensor) -> Tensor:
    """See a flat block as the widest integers that fit, so that NaNs are numbers as others."""
    import torch

    plain = block.resolve_conj().resolve_neg().contiguous().view(torch.uint8)
    aligned = plain.numel() % 8 == 0 and plain.storage_offset() % 8 == 0
    return plain.view(torch.int64) if aligned else plain


def calculable(block: Tensor) -> Tensor:
    """Give a flat block in the dtype in which it is calculated, complex numbers as pairs."""
    import torch

    if block.is_complex():
        return torch.view_as_real(block.resolve_conj()).flatten().double()
    return block.to(_working(block.dtype))


def _working(kind: torch.dtype) -> torch.dtype:
    import torch

    whole = not kind.is_floating_point and kind.itemsize > 2
    return torch.float64 if kind.itemsize > 4 or whole else torch.float32


def _joined(parts: list[Tensor]) -> Tensor:
    import torch

    return parts[0] if len(parts) == 1 else torch.cat(parts)
