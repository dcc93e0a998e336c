"""Add up how far two tensors are apart, block by block, however large or odd their numbers are."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import hypot, isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_ROW = 1024
"""Elements whose squares are added up in float32."""


@dataclass
class Sums:
    """Hold what is known of a change so far.

    Attributes:
        differing: how many elements differ.
        norm: Frobenius norm of the change, where both sides are finite.
        length: norm of the same elements before.
        largest: the largest change of one element.
        odd: NaNs before and after, infinities before and after.
    """

    differing: int = 0
    norm: float = 0.0
    length: float = 0.0
    largest: float = 0.0
    odd: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def add(self, old: Tensor, new: Tensor) -> None:
        """Take up one block of both sides."""
        change = new - old
        if not isfinite(reach(change)):
            old, change = self._set_apart(old, new)
        self.differing += int(change.count_nonzero())
        self.norm = hypot(self.norm, length(change))
        self.length = hypot(self.length, length(old))
        self.largest = max(self.largest, reach(change))

    def _set_apart(self, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """Count what is not finite on a side; give the rest as it was, and its change."""
        kinds = (old.isnan(), new.isnan(), old.isinf(), new.isinf())
        self.odd = [n + int(kind.sum()) for n, kind in zip(self.odd, kinds, strict=True)]
        finite = old.isfinite() & new.isfinite()
        self.differing += int(((old != new) & ~finite & ~(kinds[0] & kinds[1])).sum())
        return old[finite], new[finite] - old[finite]


def reach(block: Tensor) -> float:
    """Give the largest absolute value; NaN where there is one."""
    if not block.numel():
        return 0.0
    low, high = block.aminmax()
    return max(-float(low), float(high))


def length(block: Tensor) -> float:
    """Give the Euclidean length, exact to a part in a million, without overflow in the squares."""
    import torch

    most = reach(block)
    if not most or not isfinite(most):
        return most
    if 1e-15 < most < 1e15 and block.dtype == torch.float32:
        flat = block.flatten()
        whole = len(flat) // _ROW * _ROW
        lengths = torch.linalg.vector_norm(flat[:whole].view(-1, _ROW), dim=1)
        return hypot(float(lengths.double().norm()), float(flat[whole:].double().norm()))
    return most * float((block.double() / most).norm())
