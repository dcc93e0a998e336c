"""Resample tables of absolute positions, as timm's ``resample_abs_pos_embed`` does."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from surgery_plugins.surgeries.fresh.image import Size

Mode: TypeAlias = Literal["bicubic", "bilinear"]
Layout: TypeAlias = Literal["rows", "channels first", "channels last"]
"""``(..., positions, channels)``, ``(1, channels, h, w)`` or ``(1, h, w, channels)``."""


@dataclass(frozen=True)
class Resample:
    """Resample a table of positions to another grid; rows of prefix tokens stay as they are.

    The grid is interpolated in float32, as timm 1.0 (``timm/layers/pos_embed.py``) does.

    Attributes:
        old: rows and columns of the grid; one row for positions in a sequence.
        new: those that are wanted.
        prefix: how many rows before the grid belong to class, distillation or padding tokens.
        layout: how the table is laid out.
        mode: how to interpolate.
        antialias: smooth before making the grid smaller.
    """

    old: Size
    new: Size
    prefix: int
    layout: Layout
    mode: Mode
    antialias: bool

    def __call__(self, table: Tensor, *, generator: Generator) -> Tensor:
        """Give the resampled table, in float32.

        Args:
            table: as ``layout`` says, for the old grid.
            generator: not used.
        """
        if self.layout == "channels first":
            return self._grid(table.float())
        if self.layout == "channels last":
            return self._grid(table.float().movedim(-1, 1)).movedim(1, -1)
        return self._rows(table.float())

    def _rows(self, table: Tensor) -> Tensor:
        """Resample ``(..., prefix + positions, channels)``."""
        import torch

        rows = table.reshape(-1, table.shape[-1])
        grid = rows[self.prefix :].T.reshape(1, -1, *self.old)
        made = self._grid(grid).reshape(rows.shape[-1], -1).T
        joined = torch.cat([rows[: self.prefix], made])
        return joined.reshape(*table.shape[:-2], *joined.shape)

    def _grid(self, grid: Tensor) -> Tensor:
        """Interpolate ``(1, channels, h, w)``.

        The grid is made contiguous: torch 2.13 repeats one value along a side where the other
        has length 1 and channels lie innermost.
        """
        from torch.nn.functional import interpolate

        return interpolate(grid.contiguous(), self.new, mode=self.mode, antialias=self.antialias)


def layout_of(
    old: tuple[int, ...], new: tuple[int, ...], grids: tuple[Size, Size]
) -> tuple[Layout, int] | None:
    """Read off two shapes how a table of positions is laid out, and its prefix.

    Args:
        old: shape for the old grid.
        new: shape for the new one.
        grids: the two grids.

    Returns:
        The layout and the number of prefix rows, or None where the shapes are no such table's.
    """
    shapes = (old, new)
    if len(old) == len(new) == 4 and old[0] == new[0] == 1:
        if all(shape[2:] == grid for shape, grid in zip(shapes, grids, strict=True)):
            return "channels first", 0
        if all(shape[1:3] == grid for shape, grid in zip(shapes, grids, strict=True)):
            return "channels last", 0
    if len(old) not in (2, 3) or len(old) != len(new) or old[-1] != new[-1]:
        return None
    if len(old) == 3 and (old[0], new[0]) != (1, 1):
        return None
    prefix, other = (s[-2] - prod(g) for s, g in zip(shapes, grids, strict=True))
    return ("rows", prefix) if prefix == other and prefix >= 0 else None
