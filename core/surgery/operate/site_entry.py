"""Sites as JSON values, as a journal holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from surgery.anatomy.site import Layer, Site
from surgery.checkpoint.strict import show
from surgery.errors import IntegrityError

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_DEFAULTS = {field.name: field.default for field in fields(Site)}
_PLAIN = ("parameter", "tower", "out_axis", "in_axis", "evidence", "direct")


class _Entry(BaseModel):
    """What a journal may say of a site."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str
    paths: list[str] = Field(default_factory=list)
    parameter: str | None = None
    types: list[str]
    roles: list[str] = Field(default_factory=list)
    rows: dict[str, list[Annotated[list[_Count], Field(min_length=2, max_length=2)]]] = Field(
        default_factory=dict
    )
    layer: Annotated[list[int | str], Field(min_length=3, max_length=3)] | None = None
    tower: str | None = None
    shape: list[_Count]
    out_axis: _Count = 0
    in_axis: _Count | None = None
    evidence: str = "none"
    direct: bool = False

    @model_validator(mode="after")
    def _is_consistent(self) -> _Entry:
        axes = [axis for axis in (self.out_axis, self.in_axis) if axis]
        if any(axis >= len(self.shape) for axis in axes):
            raise ValueError("expected axes of the shape")
        kinds = [type(part) for part in self.layer or (0, "", 0)]
        if kinds != [int, str, int]:
            raise ValueError("expected the layer's number, container and count")
        return self

    def site(self) -> Site:
        """Give the site."""
        number, container, count = self.layer or (0, "", 0)
        return Site(
            path=self.path,
            paths=tuple(self.paths) or (self.path,),
            types=tuple(self.types),
            roles=frozenset(self.roles),
            rows={role: tuple((r[0], r[1]) for r in ranges) for role, ranges in self.rows.items()},
            layer=Layer(int(number), str(container), int(count)) if self.layer else None,
            shape=tuple(self.shape),
            **{name: getattr(self, name) for name in _PLAIN},
        )


def site_to_json(site: Site) -> dict[str, Any]:
    """Give a site as JSON values, defaults left out."""
    data: dict[str, Any] = {"path": site.path}
    if site.paths != (site.path,):
        data["paths"] = list(site.paths)
    for name in _PLAIN:
        if getattr(site, name) != _DEFAULTS[name]:
            data[name] = getattr(site, name)
    for name in ("types", "shape"):
        data[name] = list(getattr(site, name))
    if site.roles:
        data["roles"] = sorted(site.roles)
    if site.rows:
        data["rows"] = {role: [list(r) for r in ranges] for role, ranges in site.rows.items()}
    if site.layer:
        data["layer"] = [site.layer.number, site.layer.container, site.layer.count]
    return data


def site_from_json(data: Mapping[str, Any]) -> Site:
    """Give the site of JSON values that ``site_to_json`` wrote.

    Raises:
        IntegrityError: they are no site.
    """
    try:
        return _Entry.model_validate(dict(data)).site()
    except ValidationError as error:
        first = error.errors()[0]
        found = f"{'.'.join(map(str, first['loc']))}: {first['msg']} ({show(data)})"
        raise IntegrityError("the journal", "a site", found, "write the checkpoint anew") from None
