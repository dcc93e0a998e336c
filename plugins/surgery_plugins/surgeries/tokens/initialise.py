"""Values of a table whose rows are tokens: old rows kept, new rows appended."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

_CHUNK = 8192
"""Rows read at once where a statistic needs another precision."""


@dataclass(frozen=True)
class NewRow:
    """One row to make.

    Attributes:
        row: its number.
        token: the token's text, of which alone (with the seed) drawn values depend.
        ids: the old rows whose mean it is; None for those of all tokens.
        drawn: True to draw it around that mean instead, with the deviation of all tokens' rows.
    """

    row: int
    token: str
    ids: tuple[int, ...] | None = None
    drawn: bool = False


@dataclass(frozen=True)
class Regrown:
    """Compute a table of another height: a pure function of the old table and the seed.

    Attributes:
        rows: height of the new table.
        known: number of leading rows that tokens used; rows behind them are padding, and count
            in no mean.
        new: the rows to make; further rows are copied, or where there are none the mean.
        axis: axis of the table that tokens number, 0 or 1.
    """

    rows: int
    known: int
    new: tuple[NewRow, ...] = ()
    axis: int = 0

    def __call__(self, old: Tensor, generator: Generator) -> Tensor:
        """Give the new table.

        Args:
            old: the old table, ``(old rows, ...)`` for axis 0.
            generator: seeded from the recipe's seed and the table's name.
        """
        table = old.movedim(self.axis, 0)
        fresh = table.new_empty((self.rows, *table.shape[1:]))
        kept = min(len(table), self.rows)
        fresh[:kept] = table[:kept]
        wide = table[: self.known]
        if kept < self.rows:
            fresh[kept:] = mean_row(wide).to(fresh.dtype)
        for new in self.new:
            fresh[new.row] = _row(new, wide, generator.initial_seed()).to(fresh.dtype)
        return fresh.movedim(0, self.axis)


def _row(new: NewRow, table: Tensor, seed: int) -> Tensor:
    import torch

    middle = mean_row(table if new.ids is None else table[list(new.ids)])
    if not new.drawn:
        return middle
    own = torch.Generator().manual_seed(_seed(seed, new.token))
    noise = torch.randn(middle.shape, generator=own, dtype=middle.dtype)
    return middle + noise * deviation(table)


def mean_row(table: Tensor) -> Tensor:
    """Give the mean over rows in float32: ``(rows, ...)`` to ``(...)``."""
    import torch

    return torch.mean(table, 0, dtype=torch.float32)


def deviation(table: Tensor) -> Tensor:
    """Give each column's standard deviation over rows in float32: ``(rows, ...)`` to ``(...)``."""
    import torch

    middle = mean_row(table)
    total = torch.zeros_like(middle)
    for start in range(0, len(table), _CHUNK):
        total += (table[start : start + _CHUNK].float() - middle).square().sum(0)
    return (total / max(len(table), 1)).sqrt()


def _seed(seed: int, token: str) -> int:
    """Mix the table's seed with a token's text, so that other new tokens change nothing."""
    return int.from_bytes(sha256(f"{seed}\0{token}".encode()).digest()[:8], "big") >> 1
