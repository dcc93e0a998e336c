"""A module whose output is put together of the outputs of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Piece = tuple[str, int, int]
"""Some outputs of a part: its name, the first, and the one behind the last."""


class Joined(nn.Module):
    """Give the outputs of several parts in the order in which one fused weight has its rows.

    Args:
        parts: the parts by name, all of which take the same input.
        pieces: which outputs of which part stand where, in order.
    """

    def __init__(self, parts: Mapping[str, nn.Module], pieces: Sequence[Piece]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.pieces = tuple(pieces)

    def forward(self, x: Tensor) -> Tensor:
        """Give ``[..., out]`` of ``[..., in]``."""
        made: dict[str, Any] = {name: part(x) for name, part in self._modules.items() if part}
        return torch.cat([made[name][..., start:stop] for name, start, stop in self.pieces], -1)


def pieces_of(rows: Mapping[str, Sequence[tuple[int, int]]]) -> list[Piece]:
    """Give the pieces of a fused weight in the order of its rows.

    Args:
        rows: the rows of each part, half-open and sorted.
    """
    found = []
    for name, ranges in rows.items():
        start = 0
        for first, last in ranges:
            found.append((first, (name, start, start + last - first)))
            start += last - first
    return [piece for _, piece in sorted(found)]
