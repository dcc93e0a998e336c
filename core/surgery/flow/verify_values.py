"""Check stored values in bounded memory: finite numbers, and ties that are equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from surgery.checkpoint.stored import Stored
from surgery.checks.check import Check, failed, passed, skipped
from surgery.checks.invariants import is_finite
from surgery.operate.table import Row

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 22
"""Elements that are read at a time."""


def finite_values(tensors: Sequence[Stored]) -> Check:
    """Check that stored tensors hold neither NaN nor infinity, a stretch at a time."""
    name = "finite values"
    if not tensors:
        return skipped(name, "no tensors are stored here")
    bad = [tensor.name for tensor in tensors if not _finite(tensor)]
    if bad:
        return failed(name, f"NaN or infinity in {', '.join(bad[:5])} ({len(bad)})")
    return passed(name, f"{len(tensors)} tensors")


def ties(rows: Iterable[Row], groups: Iterable[Mapping[str, Sequence[Stored]]]) -> Check:
    """Check that tensors which the model ties are equal wherever each is stored of its own.

    Args:
        rows: the tensors of the model.
        groups: what is stored, by name in the model; one mapping for each set of files that is
            read as one.
    """
    known, tied = list(groups), [row for row in rows if row.aliases and row.persistent]
    if not tied:
        return passed("ties", "the model ties no tensors")
    sets = [_copies(row, group) for row in tied for group in known]
    unequal = [pair for copies in sets for pair in _unequal(copies)]
    if unequal:
        return failed("ties", "tied, but stored unequal: " + "; ".join(unequal[:5]))
    doubled = sum(len(copies) > 1 for copies in sets)
    return passed("ties", f"{len(tied)} tied tensors, {doubled} of them stored more than once")


def _copies(row: Row, group: Mapping[str, Sequence[Stored]]) -> list[Stored]:
    """Give all that is stored of one tensor."""
    return [one for name in (row.name, *row.aliases) for one in group.get(name, ())]


def _unequal(copies: Sequence[Stored]) -> Iterator[str]:
    """Name the copies that differ from the first."""
    for other in copies[1:]:
        if not _equal(copies[0], other):
            yield f"{copies[0].name} and {other.name}"


def _equal(first: Stored, other: Stored) -> bool:
    """Tell whether two stored tensors have the same form and the same bits."""
    if (first.dtype, first.shape) != (other.dtype, other.shape):
        return False
    return all(_same_bits(first, other, *span) for span in _spans(first))


def _same_bits(first: Stored, other: Stored, start: int, stop: int) -> bool:
    import torch

    one, two = (
        tensor.read(start, stop).contiguous().view(torch.uint8) for tensor in (first, other)
    )
    return torch.equal(one, two)


def _finite(tensor: Stored) -> bool:
    return all(is_finite(_wide(tensor, *span)) for span in _spans(tensor))


def _wide(tensor: Stored, start: int, stop: int) -> Tensor:
    """Read elements; those of 8 bits as 32, since torch computes with no less."""
    found = tensor.read(start, stop)
    return found.float() if found.is_floating_point() and found.element_size() == 1 else found


def _spans(tensor: Stored) -> Iterator[tuple[int, int]]:
    """Divide the elements of a tensor into stretches."""
    for start in range(0, tensor.count, BLOCK):
        yield start, min(start + BLOCK, tensor.count)
