"""What the surgery knows of one kind of connector: its sizes, and how shapes tell them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from surgery_plugins.modules.connector import Connector

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name, relative to the connector."""

Value: TypeAlias = int | float | bool | str
"""The value of one size."""


@dataclass(frozen=True)
class Size:
    """One number, word or switch that a connector is built with.

    Attributes:
        type: ``int``, ``float``, ``bool`` or ``str``.
        text: what it is.
        least: the smallest number allowed.
        choices: the words allowed; any where empty.
    """

    type: type[int] | type[float] | type[bool] | type[str]
    text: str
    least: float = 1
    choices: tuple[str, ...] = ()

    def wrong(self, value: Value) -> str | None:
        """Say what would be right where a value is not; None where it is."""
        fits = type(value) is self.type or (self.type is float and type(value) is int)
        if not fits:
            return {int: "a whole number", float: "a number", bool: "true or false"}.get(
                self.type, "text"
            )
        if isinstance(value, str):
            return None if value in (self.choices or (value,)) else f"one of {self.choices}"
        return None if value >= self.least or self.type is bool else f"{self.least:g} or more"


@dataclass
class Told:
    """What the shapes of a connector's tensors tell of its sizes.

    Attributes:
        sizes: values, and the tensor that tells each.
        candidates: for sizes that the shapes do not tell, what they leave possible.
    """

    sizes: dict[str, tuple[Value, str]] = field(default_factory=dict)
    candidates: dict[str, str] = field(default_factory=dict)

    def add(self, tensor: str, **values: Value) -> None:
        """Add values that one tensor tells."""
        self.sizes.update({name: (value, tensor) for name, value in values.items()})


@dataclass(frozen=True)
class Kind:
    """One kind of connector.

    Attributes:
        name: what a recipe writes under ``kind:``.
        sizes: what it is built with, widths of its ends left out.
        names: pattern that every tensor of such a connector matches.
        tell: called with shapes by the kind's own names and with what is known already; gives
            what the shapes tell, or None where they are not of this kind.
        build: called with all sizes and the widths of both ends as keywords.
        rename: gives the kind's own name for each stored name, for layouts of other projects.
        unused: gives values for sizes that have no effect beside others.
        metadata: names of sizes in other projects' metadata, and ours for each.
        implied: gives sizes that metadata say in another way.
    """

    name: str
    sizes: Mapping[str, Size]
    names: re.Pattern[str]
    tell: Callable[[Shapes, Mapping[str, Value]], Told | None]
    build: Callable[..., Connector]
    rename: Callable[[Shapes], Mapping[str, str]] = lambda shapes: {name: name for name in shapes}
    unused: Callable[[Mapping[str, Value]], Mapping[str, Value]] = lambda sizes: {}
    metadata: Mapping[str, str] = field(default_factory=dict)
    implied: Callable[[Mapping[str, Any]], Mapping[str, Value]] = lambda said: {}

    @property
    def all_sizes(self) -> Mapping[str, Size]:
        """The sizes and the widths of both ends."""
        return {**ENDS, **self.sizes}


ENDS = {
    "in_features": Size(int, "width of a token of the vision tower"),
    "out_features": Size(int, "width of a token of the language model"),
}
"""The sizes that every kind has."""

ACT = Size(str, "activation, by transformers' name")
BIAS = Size(bool, "whether the matrices have a bias")
FACTOR = Size(int, "side of the blocks of tokens that become one")
EPS = Size(float, "epsilon of the norms", least=0)
DROPOUT = Size(float, "share of features that training drops", least=0)


def count(shapes: Shapes, pattern: str) -> int:
    """Count the numbers that a pattern's one group finds among names, which must be 0 to n - 1."""
    found = {int(m[1]) for name in shapes if (m := re.match(pattern, name))}
    return len(found) if found == set(range(len(found))) else 0


def root(number: int) -> int | None:
    """Give the whole square root of a number, or None where it has none."""
    from math import isqrt

    return isqrt(number) if number > 0 and isqrt(number) ** 2 == number else None


def divisors(number: int) -> list[int]:
    """Give the divisors of a number, smallest first."""
    return [d for d in range(1, number + 1) if number % d == 0]


def lazily(module: str, name: str) -> Callable[..., Any]:
    """Give a function that imports a class of this package when it is called, and calls it."""

    def build(**sizes: Value) -> Any:
        from importlib import import_module

        return getattr(import_module(f"surgery_plugins.modules.{module}"), name)(**sizes)

    return build
