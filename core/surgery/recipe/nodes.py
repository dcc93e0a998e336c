"""The tree of a recipe: plain values, each with the place where it was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from surgery.errors import RecipeError

Scalar: TypeAlias = str | int | float | bool | None
Location: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the root, such as ``("surgeries", 1, "use")``."""

MAX_DEPTH = 64
"""How many levels a recipe may have."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file, in an option of the command line, or in Python.

    Attributes:
        source: the file's name, the option, or empty for a value from Python.
        line: counted from 1; 0 where there are no lines.
        column: counted from 1.
    """

    source: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a recipe.

    Attributes:
        value: a scalar, or nodes by key, or a list of nodes.
        mark: where the value begins.
        key: where the value's key begins; None in a list and at the root.
        plain: True for a scalar that was written without quotes.
    """

    value: Scalar | Mapping[str, Node] | tuple[Node, ...]
    mark: Mark = field(default_factory=Mark)
    key: Mark | None = None
    plain: bool = False

    @property
    def children(self) -> Mapping[str, Node]:
        """The values by key; empty where this is no mapping."""
        return self.value if isinstance(self.value, Mapping) else {}

    @property
    def items(self) -> tuple[Node, ...]:
        """The entries; empty where this is no list."""
        return self.value if isinstance(self.value, tuple) else ()

    def child(self, part: str | int) -> Node | None:
        """Give the value of a key or the entry at a position, or None."""
        if isinstance(part, int):
            return self.items[part] if 0 <= part < len(self.items) else None
        return self.children.get(part)


def plain(node: Node) -> Any:
    """Give the values alone, as dicts, lists and scalars."""
    if isinstance(node.value, Mapping):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, tuple):
        return [plain(child) for child in node.value]
    return node.value


def node_of(value: Any, mark: Mark | None = None, depth: int = MAX_DEPTH) -> Node:
    """Give the tree of plain Python values; what is no mapping or list is kept as it is.

    Args:
        value: dicts, lists or tuples, and scalars.
        mark: the place that errors name.
        depth: how many levels there may be.

    Raises:
        RecipeError: there are more levels, as in a list that holds itself.
    """
    mark = mark or Mark()
    if depth < 0:
        raise mistake(mark, (), f"at most {MAX_DEPTH} levels", "more")
    if isinstance(value, Mapping):
        pairs = {str(key): node_of(item, mark, depth - 1) for key, item in value.items()}
        return Node(pairs, mark)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return Node(tuple(node_of(item, mark, depth - 1) for item in value), mark)
    return Node(value, mark)


def nearest(root: Node, location: Location) -> tuple[Node, Location]:
    """Follow a location as far as it exists; parts that lead nowhere are skipped.

    Returns:
        The node, and the parts that led to it.
    """
    node, taken = root, []
    for part in location:
        child = node.child(part)
        if child is not None:
            node = child
            taken.append(part)
    return node, tuple(taken)


def text_of(location: Location) -> str:
    """Write a location as ``surgeries[1].with.rank``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: Any) -> str:
    """Write a found value as in YAML, short and on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "keys and values" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def mistake(
    mark: Mark, location: Location, wanted: str, found: str, instead: str = ""
) -> RecipeError:
    """Give the error of one place of a recipe."""
    parts = (str(mark), text_of(location))
    return RecipeError(": ".join(p for p in parts if p) or "recipe", wanted, found, instead)


def _rank(mark: Mark) -> tuple[bool, str, int, int]:
    return not mark.line, mark.source if mark.line else "", mark.line, mark.column


def in_order(problems: Iterable[tuple[Mark, RecipeError]]) -> list[RecipeError]:
    """Sort mistakes by their place, files first, then options; each is given once."""
    ranked = sorted(problems, key=lambda pair: _rank(pair[0]))
    return list({str(error): error for _, error in ranked}.values())
