"""Compare the tensors of a file with those of a structure, component by component."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from surgery.checkpoint.legacy.declared import Declared, Shape
from surgery.errors import RecipeError, did_you_mean

OUTSIDE = "(no component)"
"""Where tensors belong that no component of the structure has."""


@dataclass
class Component:
    """One part of a structure and what a file holds of it.

    Attributes:
        name: the beginning of its tensors' names.
        declared: True where all of it must be there.
        matched: names that meet, in name and shape.
        missing: names that the file does not have.
        unexpected: names that only the file has.
        mismatched: names with both shapes, the file's first.
    """

    name: str
    declared: bool
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Tell whether everything matches and nothing is left over."""
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def share(self) -> float:
        """Part of its tensors that match, from 0 to 1."""
        bad = len(self.missing) + len(self.unexpected) + len(self.mismatched)
        return len(self.matched) / max(1, len(self.matched) + bad)

    def to_json(self) -> dict[str, object]:
        """Give the component as JSON values."""
        return {
            "name": self.name,
            "declared": self.declared,
            "share": self.share,
            "matched": len(self.matched),
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mismatched": {
                name: {"file": list(held), "structure": list(wanted)}
                for name, (held, wanted) in self.mismatched.items()
            },
        }


def compared(
    held: Mapping[str, Shape],
    wanted: Declared,
    components: Sequence[str] = (),
    outside: Sequence[str] = (),
) -> list[Component]:
    """Compare tensors by name and shape.

    Args:
        held: shape by name in the structure.
        wanted: the structure.
        components: the parts that must be complete; all top-level modules by default.
        outside: names in the file that no prefix leads into the structure.

    Raises:
        RecipeError: the structure has no such part.
    """
    _check(components, wanted.shapes)
    found: dict[str, Component] = {}
    tops = {name.partition(".")[0] for name in wanted.shapes}
    for name in [*wanted.shapes, *(n for n in held if n not in wanted.shapes)]:
        part = _part(name, components, tops)
        declared = part in components if components else part != OUTSIDE
        component = found.setdefault(part, Component(part, declared))
        _enter(component, name, held, wanted)
    if outside:
        found.setdefault(OUTSIDE, Component(OUTSIDE, False)).unexpected.extend(outside)
    return sorted(found.values(), key=lambda one: (one.name == OUTSIDE, one.name))


def _part(name: str, components: Sequence[str], tops: Collection[str]) -> str:
    """Name the component of a tensor: the longest that was asked for, or its top-level module."""
    fits = [one for one in components if name == one or name.startswith(f"{one}.")]
    top = name.partition(".")[0]
    return max(fits, key=len) if fits else top if top in tops else OUTSIDE


def _enter(component: Component, name: str, held: Mapping[str, Shape], wanted: Declared) -> None:
    if name not in wanted.shapes:
        component.unexpected.append(name)
    elif name not in held:
        ties = [other for other, first in wanted.first.items() if first == wanted.first[name]]
        there = any(other in held for other in ties)
        (component.matched if there else component.missing).append(name)
    elif held[name] != wanted.shapes[name]:
        component.mismatched[name] = (held[name], wanted.shapes[name])
    else:
        component.matched.append(name)


def _check(components: Sequence[str], names: Collection[str]) -> None:
    for one in components:
        if not any(name == one or name.startswith(f"{one}.") for name in names):
            parts = [name.split(".") for name in names]
            known = {".".join(path[:depth]) for path in parts for depth in range(1, len(path))}
            hint = did_you_mean(one, known)
            raise RecipeError("--component", "a module of the structure", repr(one), hint)
