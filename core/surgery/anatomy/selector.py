"""The selector: what a recipe writes under ``at:``. Plain data; ``select`` gives it meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

EVERYWHERE = "**"
"""The glob that every path matches."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Say which sites are meant: all keys that are given must hold, any entry of each will do.

    Attributes:
        role: roles, such as ``attention.q``.
        path: globs over dotted paths; ``*`` stays within one name, ``**`` crosses dots.
        match: full regular expressions over dotted paths.
        type: class names; a module's base classes count.
        layers: layer numbers and ranges as text: ``4``, ``-1``, ``4-11``, ``0-11/2``; negative
            numbers count from the end.
        tower: towers, such as ``text``.
        exclude: what to leave out of the sites selected by the other keys.
    """

    role: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    match: tuple[str, ...] = ()
    type: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    tower: tuple[str, ...] = ()
    exclude: tuple[Selector, ...] = ()

    @property
    def needs_trace(self) -> bool:
        """Tell whether keys are given that only an observed forward can answer."""
        return bool(self.role or self.tower or self.layers) or any(
            part.needs_trace for part in self.exclude
        )

    def to_json(self) -> dict[str, object]:
        """Give the keys that are set as JSON values, single entries as plain text."""
        plain = {f.name: list(getattr(self, f.name)) for f in fields(self) if f.name != "exclude"}
        shown: dict[str, object] = {
            key: entries[0] if len(entries) == 1 else entries
            for key, entries in plain.items()
            if entries
        }
        if self.exclude:
            shown["exclude"] = [part.to_json() for part in self.exclude]
        return shown

    def __str__(self) -> str:
        return " ".join(_clauses(self)) or "everything"


def _clauses(selector: Selector) -> Iterator[str]:
    for key, value in selector.to_json().items():
        if key == "exclude":
            yield from (f"except ({part})" for part in selector.exclude)
        else:
            yield f"{key}={','.join(value) if isinstance(value, list) else value}"
