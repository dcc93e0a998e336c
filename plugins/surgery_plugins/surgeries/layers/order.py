"""Which old layer stands where afterwards. Plain numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from surgery.anatomy.numbers import layer_range
from surgery.errors import RefusedError


@dataclass(frozen=True, slots=True)
class Block:
    """One place of the stack afterwards.

    Attributes:
        source: number of the old layer that gives structure and values.
        inserted: True for a block that starts as an identity.
    """

    source: int
    inserted: bool = False


Order: TypeAlias = tuple[Block, ...]
"""The stack afterwards, in order."""


def dropped(count: int, chosen: Sequence[int]) -> Order:
    """Leave the chosen layers out."""
    return tuple(Block(n) for n in range(count) if n not in chosen)


def kept(count: int, chosen: Sequence[int]) -> Order:
    """Leave all but the chosen layers out."""
    return tuple(Block(n) for n in range(count) if n in chosen)


def repeated(count: int, chosen: Sequence[int]) -> Order:
    """Put a copy of each chosen layer behind it."""
    return tuple(Block(n) for n in range(count) for _ in range(2 if n in chosen else 1))


def expanded(count: int, chosen: Sequence[int]) -> Order:
    """Put a block that starts as an identity behind each chosen layer."""
    return tuple(
        block
        for n in range(count)
        for block in ((Block(n), Block(n, True)) if n in chosen else (Block(n),))
    )


def listed(count: int, entries: Sequence[int | str]) -> Order:
    """Give the layers that a recipe lists, in its order; some may be left out or come twice.

    Raises:
        RefusedError: a layer is not there.
        RecipeError: an entry is no layer and no range.
    """
    found = [layer_range(str(entry), "layers.order") for entry in entries]
    for entry, one in zip(entries, found, strict=True):
        if not one.fits(count):
            raise RefusedError("layers.order", f"layers from 0 to {count - 1}", repr(entry))
    return tuple(Block(n) for one in found for n in one.of(count))


def told(order: Order) -> Iterator[str]:
    """Say in words which old layers stand where, runs folded."""
    start = 0
    for place in range(1, len(order) + 1):
        if place == len(order) or not _continues(order, place):
            yield _run(order, start, place)
            start = place


def _continues(order: Order, place: int) -> bool:
    before, here = order[place - 1], order[place]
    return not (before.inserted or here.inserted) and here.source == before.source + 1


def _run(order: Order, start: int, stop: int) -> str:
    first = order[start]
    if first.inserted:
        return f"new layer {start}: an identity, a copy of old layer {first.source} but for zeros"
    new = f"layer {start}" if stop == start + 1 else f"layers {start}-{stop - 1}"
    old = str(first.source) if stop == start + 1 else f"{first.source}-{order[stop - 1].source}"
    return f"new {new}: old {old}"
