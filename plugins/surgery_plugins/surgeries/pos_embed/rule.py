"""Say which parameters are tables of positions, and where their new values come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.operate.edits import Derive, Value
from surgery_plugins.surgeries.fresh.difference import Changed
from surgery_plugins.surgeries.pos_embed.resample import Mode, Resample, layout_of

if TYPE_CHECKING:
    from torch import nn

    from surgery_plugins.surgeries.fresh.image import Size


@dataclass(frozen=True)
class PositionRule:
    """Resample the tables of positions whose shapes follow from one of some grids.

    Attributes:
        grids: for each tower the old grid and the new one.
        model: the model; an embedding with a padding index keeps the rows up to it.
        mode: how to interpolate.
        antialias: smooth before making a grid smaller.
    """

    grids: tuple[tuple[Size, Size], ...]
    model: nn.Module
    mode: Mode
    antialias: bool

    def __call__(self, one: Changed) -> Value | None:
        """Give the value of a table, or None where a parameter is no table of positions."""
        for old, new in self.grids:
            found = layout_of(tuple(one.old.shape), tuple(one.new.shape), (old, new))
            if found is not None:
                layout, prefix = found
                kept = 0 if prefix or layout != "rows" else self._padding(one.name)
                sizes = [(size[0], size[1] - kept) for size in (old, new)]
                made = Resample(
                    sizes[0], sizes[1], prefix + kept, layout, self.mode, self.antialias
                )
                return Derive((one.name,), made)
        return None

    def _padding(self, name: str) -> int:
        """Give how many rows of a table in a sequence are no positions."""
        index = getattr(self.model.get_submodule(name.rpartition(".")[0]), "padding_idx", None)
        return 0 if index is None else int(index) + 1
