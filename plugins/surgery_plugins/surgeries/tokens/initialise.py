"""Values of a table whose rows are tokens: old rows kept, new rows appended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

from surgery.operate.stretches import Stretches, joined

if TYPE_CHECKING:
    from torch import Generator, Tensor


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
        shape = list(old.shape)
        shape[self.axis] = self.rows
        return joined(self.pieces(Stretches(old), generator=generator), tuple(shape), old.dtype)

    def pieces(self, first: Stretches, *, generator: Generator) -> Iterator[Tensor]:
        """Give the new table some rows at a time; one with tokens on axis 1 as a whole.

        Args:
            first: the old table.
            generator: seeded from the recipe's seed and the table's name.
        """
        if self.axis == 0:
            yield from self._regrown(first, generator.initial_seed())
            return
        turned = Stretches(first.whole().movedim(self.axis, 0))
        shape = (self.rows, *turned.shape[1:])
        made = joined(self._regrown(turned, generator.initial_seed()), shape, turned.dtype)
        yield made.movedim(0, self.axis).contiguous()

    def _regrown(self, old: Stretches, seed: int) -> Iterator[Tensor]:
        """Give old rows, the made ones in their places, and then the rows behind."""
        kept, table = min(old.shape[0], self.rows), Known(old, min(self.known, old.shape[0]))
        made = {new.row: _row(new, table, seed).to(old.dtype) for new in self.new}
        done = 0
        for rows in old.in_rows(kept):
            places = [row for row in made if done <= row < done + len(rows)]
            rows = rows.clone() if places else rows
            for row in places:
                rows[row - done] = made[row]
            done += len(rows)
            yield rows
        for row in range(kept, self.rows):
            yield made[row] if row in made else table.mean.to(old.dtype)


@dataclass(frozen=True)
class Known:
    """The rows of a table that tokens use, and what is computed of all of them, each once.

    Attributes:
        table: the table, rows on axis 0.
        count: how many of its leading rows they are.
    """

    table: Stretches
    count: int

    @cached_property
    def mean(self) -> Tensor:
        """The mean over rows in float32, summed in float64: ``(...)`` of ``(rows, ...)``."""
        import torch

        total = torch.zeros(self.table.shape[1:], dtype=torch.float64)
        for rows in self.table.in_rows(self.count):
            total += rows.float().sum(0)
        return (total / max(self.count, 1)).float()

    @cached_property
    def deviation(self) -> Tensor:
        """Each column's standard deviation over rows in float32: ``(...)`` of ``(rows, ...)``."""
        import torch

        total = torch.zeros_like(self.mean)
        for rows in self.table.in_rows(self.count):
            total += (rows.float() - self.mean).square().sum(0)
        return (total / max(self.count, 1)).sqrt()

    def mean_of(self, ids: tuple[int, ...]) -> Tensor:
        """Give the mean of some rows in float32: ``(...)`` of ``(rows, ...)``."""
        import torch

        return torch.stack([self.table.rows(n, n + 1)[0] for n in ids]).float().mean(0)


def _row(new: NewRow, table: Known, seed: int) -> Tensor:
    import torch

    middle = table.mean if new.ids is None else table.mean_of(new.ids)
    if not new.drawn:
        return middle
    own = torch.Generator().manual_seed(_seed(seed, new.token))
    noise = torch.randn(middle.shape, generator=own, dtype=middle.dtype)
    return middle + noise * table.deviation


def _seed(seed: int, token: str) -> int:
    """Mix the table's seed with a token's text, so that other new tokens change nothing."""
    return int.from_bytes(sha256(f"{seed}\0{token}".encode()).digest()[:8], "big") >> 1
