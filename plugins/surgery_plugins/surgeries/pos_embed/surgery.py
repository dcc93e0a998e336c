"""The surgery ``pos_embed``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isqrt, prod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.edits import Derive, Edit, Rewrite, SetAttribute
from surgery.operate.surgery import Surgery
from surgery_plugins.surgeries.fresh.follow import change, follow, tensor_of
from surgery_plugins.surgeries.fresh.forward import check_forward
from surgery_plugins.surgeries.fresh.image import Size, grids, image_settings, pair
from surgery_plugins.surgeries.fresh.settings import joined, parts_used, topmost
from surgery_plugins.surgeries.pos_embed.resample import Mode, Resample
from surgery_plugins.surgeries.pos_embed.rule import PositionRule

if TYPE_CHECKING:
    from surgery.operate.patient import Patient


class PosEmbed(Surgery):
    """Resample absolute position embeddings for another image size, length or grid.

    With ``image_size`` or ``length`` the configuration is changed, and everything that a model
    built from it has otherwise follows. With ``grid`` the selected tables alone are resampled.
    """

    name: ClassVar[str] = "pos_embed"
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"at": {"path": "image.positions"}, "with": {"grid": [3, 3]}},
        {"with": {"image_size": 16}},
    )

    image_size: int | list[int] | None = Field(
        default=None, description="Side of the images in pixels, or [height, width]."
    )
    length: int | None = Field(default=None, ge=1, description="Positions in a sequence.")
    key: str = Field(
        default="max_position_embeddings", description="Configuration key that states the length."
    )
    grid: list[int] | None = Field(
        default=None, description="Rows and columns wanted, for models without a configuration."
    )
    from_grid: list[int] | None = Field(
        default=None, description="Rows and columns there are; a square if left out."
    )
    prefix: int = Field(default=0, ge=0, description="With grid: rows of class tokens before it.")
    mode: Mode = Field(default="bicubic", description="How to interpolate.")
    antialias: bool = Field(default=True, description="Smooth before making a grid smaller.")

    @model_validator(mode="after")
    def _one_kind(self) -> PosEmbed:
        if sum(option is not None for option in (self.image_size, self.length, self.grid)) != 1:
            raise ValueError("expected one of image_size, length and grid")
        for value in (self.image_size, self.grid, self.from_grid):
            if isinstance(value, list) and (len(value) != 2 or min(value) < 1):
                raise ValueError("expected two positive numbers, [height, width]")
        if self.grid is None and (self.from_grid is not None or self.prefix):
            raise ValueError("expected from_grid and prefix only with grid")
        return self

    def refuse(self, site: Site) -> str | None:
        """Refuse, where a grid is given, what is no table of positions."""
        if self.grid is None:
            return None
        shape = site.shape
        if site.parameter is None or len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] > 1):
            return f"shape {shape} is no table of positions, (positions, channels)"
        count = shape[-2] - self.prefix
        old = pair(self.from_grid) if self.from_grid else (isqrt(max(count, 0)),) * 2
        if prod(old) != count or count < 1:
            return f"{shape[-2]} rows less {self.prefix} are no grid of {old[0]} x {old[1]}"
        return None

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the topmost sites; the tables themselves where a grid is given."""
        return sites if self.grid is not None else topmost(sites)

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Resample the tables; configuration, position numbers and attributes follow."""
        if self.grid is not None:
            return [edit for site in sites for edit in self._alone(site, patient, self.grid)]
        if self.length is not None:
            edits = list(self._sequence(sites, patient, self.length))
        else:
            edits = list(self._image(sites, patient))
        if not any(isinstance(edit, Rewrite | SetAttribute) for edit in edits):
            raise RefusedError(
                "pos_embed", "a table or module that depends on the size", "none, or the same size"
            )
        return edits

    def _image(self, sites: Sequence[Site], patient: Patient) -> Iterator[Edit]:
        size = pair(self.image_size)
        made = change(patient, image_settings(sites, patient, size))
        if size[0] != size[1]:
            check_forward(made, "pos_embed.image_size")
        found = tuple(grids(patient.config, made.config))
        rule = PositionRule(found, made.model, self.mode, self.antialias)
        return follow(made, sites, rule, "pos_embed")

    def _sequence(self, sites: Sequence[Site], patient: Patient, length: int) -> Iterator[Edit]:
        key, part = self._stating(sites, patient)
        old = int(getattr(part, self.key))
        leaf = dict(getattr(part, "attribute_map", {})).get(self.key, self.key)
        made = change(patient, {joined(key, leaf): length})
        rule = PositionRule((((1, old), (1, length)),), made.model, self.mode, self.antialias)
        return follow(made, sites, rule, "pos_embed")

    def _stating(self, sites: Sequence[Site], patient: Patient) -> tuple[str, Any]:
        """Give key and part of the configuration that states the length."""
        used = parts_used(sites, patient) if patient.config is not None else {}
        found = {k: p for k, p in used.items() if isinstance(getattr(p, self.key, None), int)}
        if len(found) != 1:
            raise RefusedError(
                "pos_embed.length",
                f"one {self.key} in the configuration of what is selected",
                ", ".join(joined(key, self.key) for key in found) or "none",
                "select one tower with `at: {path: ...}`" if found else "name another `key:`",
            )
        return next(iter(found.items()))

    def _alone(self, site: Site, patient: Patient, grid: list[int]) -> Iterator[Edit]:
        """Resample one table, without a configuration."""
        assert site.parameter is not None
        table = tensor_of(patient.model, site.parameter)
        count, new = site.shape[-2] - self.prefix, pair(grid)
        old: Size = pair(self.from_grid) if self.from_grid else (isqrt(count), isqrt(count))
        made = Resample(old, new, self.prefix, "rows", self.mode, self.antialias)
        shape = (*site.shape[:-2], self.prefix + prod(new), site.shape[-1])
        dtype = str(table.dtype).removeprefix("torch.")
        yield Rewrite(site.parameter, shape, dtype, Derive((site.parameter,), made))
        if "Embedding" in site.types:
            yield SetAttribute(f"{site.path}.num_embeddings", shape[-2])
