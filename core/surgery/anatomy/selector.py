"""The selector: what a recipe writes under ``at:``. Plain data; ``select`` gives it meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from surgery.errors import RecipeError, did_you_mean

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


def selector_of(keys: Mapping[str, Any], where: str) -> Selector:
    """Make a selector from keys as people write them in Python.

    Args:
        keys: for each key a text, a number or a list of them; ``exclude`` takes globs, selectors
            and mappings of keys.
        where: how errors name the place.

    Raises:
        RecipeError: a key is unknown, or a value is of another kind.
    """
    known = [f.name for f in fields(Selector)]
    for key in keys:
        if key not in known:
            raise RecipeError(where, "a key of a selector", repr(key), did_you_mean(key, known))
    plain = {
        key: tuple(_text(entry, key, f"{where}.{key}") for entry in _listed(value, key, where))
        for key, value in keys.items()
        if key != "exclude"
    }
    listed = _listed(keys["exclude"], "exclude", where) if "exclude" in keys else []
    return Selector(**plain, exclude=tuple(_part(part, f"{where}.exclude") for part in listed))


def _listed(value: Any, key: str, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        return [value]
    if not value:
        raise RecipeError(f"{where}.{key}", "at least one entry", "an empty list")
    return list(value)


def _text(entry: Any, key: str, where: str) -> str:
    number = key == "layers" and type(entry) is int
    if number or (isinstance(entry, str) and entry):
        return str(entry)
    raise RecipeError(where, "a text or a number" if key == "layers" else "a text", repr(entry))


def _part(part: Any, where: str) -> Selector:
    if isinstance(part, Selector):
        return part
    if isinstance(part, Mapping):
        return selector_of(part, where)
    return Selector(path=(_text(part, "path", where),))
