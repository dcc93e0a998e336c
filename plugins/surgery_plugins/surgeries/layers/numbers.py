"""The numbers that layers know of themselves, such as the index in a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def renumber(old: Sequence[nn.Module], new: Sequence[nn.Module], sources: Sequence[int]) -> None:
    """Give copied layers the numbers of their new places.

    A number is a whole-number attribute that runs along with the old layers, one apart each.

    Args:
        old: the layers as they were.
        new: the copies, in their new order; changed in place.
        sources: for each of them, which old one it is a copy of.
    """
    running = set(_running(old))
    for place, (layer, source) in enumerate(zip(new, sources, strict=True)):
        for path, module in layer.named_modules():
            for name, value in vars(module).items():
                if (path, name) in running:
                    setattr(module, name, value + place - source)


def is_number(old: Any, new: Any, step: int) -> bool:
    """Tell whether two values differ as much as the places of their layers."""
    return type(old) is int and type(new) is int and new - old == step


def _running(layers: Sequence[nn.Module]) -> Iterator[tuple[str, str]]:
    first = dict(layers[0].named_modules())
    others = [dict(layer.named_modules()) for layer in layers]
    for path, module in first.items():
        for name, value in vars(module).items():
            held = [vars(other[path]).get(name) if path in other else None for other in others]
            if len(layers) > 1 and all(is_number(value, v, n) for n, v in enumerate(held)):
                yield path, name
