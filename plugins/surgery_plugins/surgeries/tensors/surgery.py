"""The surgery ``tensors``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from surgery.anatomy.site import Site
from surgery.errors import RecipeError
from surgery.operate.surgery import Surgery
from surgery_plugins.surgeries.tensors.patterns import captures_of, check_template, regex_of

if TYPE_CHECKING:
    from surgery.operate.edits import Edit
    from surgery.operate.patient import Patient

Verb: TypeAlias = Literal[
    "copy", "move", "scale", "add", "split", "concatenate", "stack", "permute", "fill", "remove"
]
"""What is done with tensors."""

TAKES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "copy": (frozenset({"to"}), frozenset({"replace"})),
    "move": (frozenset({"to"}), frozenset({"replace"})),
    "scale": (frozenset({"by"}), frozenset()),
    "add": (frozenset({"to"}), frozenset({"by", "keep", "replace"})),
    "split": (frozenset({"to", "axis"}), frozenset({"sizes", "keep", "replace"})),
    "concatenate": (frozenset({"to", "axis"}), frozenset({"keep", "replace"})),
    "stack": (frozenset({"to", "axis"}), frozenset({"keep", "replace"})),
    "permute": (frozenset({"axes"}), frozenset()),
    "fill": (frozenset({"value"}), frozenset({"deviation"})),
    "remove": (frozenset(), frozenset()),
}
"""For each verb the options that it needs, and those that it may have."""

FOLLOW = ("add", "concatenate", "stack")
"""Verbs that read several tensors: the first name is a pattern, the others follow its captures."""

ANY = ("scale", "permute", "fill", "remove")
"""Verbs that take any number of patterns, each by itself."""


class Tensors(Surgery):
    """Change tensors by their names; in a bare state dict, the names too.

    Only tensors at and below the selected sites are looked at; leave ``at:`` out for all.
    """

    name: ClassVar[str] = "tensors"
    narrows: ClassVar[frozenset[str]] = frozenset({"tensors"})
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"with": {"do": "scale", "names": "**.bias", "by": 0.5}},
        {"with": {"do": "fill", "names": "**.norm*.weight", "value": 1.0, "deviation": 0.1}},
    )

    do: Verb = Field(description="What to do with the tensors.")
    names: str | list[str] = Field(
        description="Which: globs such as '**.bias', with captures such as 'layers.<n>.<rest:**>'. "
        "To add, concatenate or stack, a list: a glob, and names that use its captures."
    )
    to: str | list[str] | None = Field(
        default=None, description="Names of the results, with captures; of a split one each."
    )
    by: float | list[float] | None = Field(
        default=None, description="Factor of a scale; of a sum one for each of `names`."
    )
    axis: int | None = Field(default=None, ge=0, description="Along which axis, counted from 0.")
    sizes: list[int] | None = Field(
        default=None, description="Sizes of a split's parts; equal ones by default."
    )
    axes: list[int] | None = Field(
        default=None, description="For each new axis the number of the old one."
    )
    value: float | None = Field(default=None, description="The number to fill with.")
    deviation: float | None = Field(
        default=None, gt=0, description="Fill with normal numbers around `value` instead."
    )
    keep: bool = Field(
        default=False, description="Leave the tensors that were read where they are."
    )
    replace: bool = Field(default=False, description="Let results replace tensors that are there.")
    count: int | None = Field(
        default=None, ge=1, description="How many tensors `names` must find in all."
    )

    @field_validator("names")
    @classmethod
    def _patterns(cls, names: str | list[str]) -> str | list[str]:
        found = _several(names)
        if not found:
            raise ValueError("expected one name at least")
        try:
            for name in found:
                regex_of(name)
        except RecipeError as error:
            raise ValueError(f"expected {error.wanted}, got {error.found}") from None
        return names

    @model_validator(mode="after")
    def _fits(self) -> Tensors:
        needs, may = TAKES[self.do]
        given = {key for key in _OPTIONS if not _left_out(getattr(self, key))}
        if missing := sorted(needs - given):
            raise ValueError(f"expected {missing[0]} to {self.do}, got none")
        if odd := sorted(given - needs - may):
            raise ValueError(f"expected no {odd[0]} to {self.do}")
        _check_counts(self)
        captures = captures_of(self.patterns[0])
        for template in (*(self.patterns[1:] if self.do in FOLLOW else ()), *self.targets):
            check_template(template, captures)
        return self

    @property
    def patterns(self) -> list[str]:
        """The names, as a list."""
        return _several(self.names)

    @property
    def targets(self) -> list[str]:
        """The names of the results, as a list."""
        return [] if self.to is None else _several(self.to)

    def refuse(self, site: Site) -> str | None:
        """Refuse parts of fused weights: names speak of whole tensors."""
        return f"{site.part} is only some rows of it" if site.part is not None else None

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the topmost sites."""
        from surgery_plugins.surgeries.fresh.settings import topmost

        return topmost(sites)

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Give the edits of all tensors that the names find."""
        from surgery_plugins.surgeries.tensors.edits import edits_of

        return edits_of(self, sites, patient.model)


_OPTIONS = ("to", "by", "axis", "sizes", "axes", "value", "deviation", "keep", "replace")


def _left_out(value: object) -> bool:
    return value is None or value is False  # 0 is a number to fill with


def _several(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _check_counts(made: Tensors) -> None:
    """Check that there are as many names as the verb takes.

    Raises:
        ValueError: there are not.
    """
    names, to = len(made.patterns), len(made.targets)
    if names > 1 and made.do not in (*FOLLOW, *ANY):
        raise ValueError(f"expected one name to {made.do}, got {names}")
    if made.do == "split" and to < 2:
        raise ValueError(f"expected two names or more under to, got {to}")
    if made.do not in ("split",) and to > 1:
        raise ValueError(f"expected one name under to, got {to}")
    if made.sizes is not None and (len(made.sizes) != to or min(made.sizes) < 1):
        raise ValueError(f"expected {to} sizes of 1 or more, got {made.sizes}")
    if made.axes is not None and sorted(made.axes) != list(range(len(made.axes))):
        raise ValueError(f"expected each axis from 0 once, got {made.axes}")
    if isinstance(made.by, list) and (made.do == "scale" or len(made.by) != names):
        wanted = "one factor" if made.do == "scale" else f"{names} factors, one for each name"
        raise ValueError(f"expected {wanted}, got {len(made.by)}")
