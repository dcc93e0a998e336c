"""Apply ``--set surgeries.1.with.rank=8`` to the tree of a recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from surgery.errors import RecipeError, did_you_mean
from surgery.recipe.nodes import MAX_DEPTH, Location, Mark, Node, plain, shown
from surgery.recipe.yaml import read_yaml

_BRACKETS = re.compile(r"\[([0-9]+)\]")
_PART = re.compile(r"[^.\[\]=\s]+")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


def override(root: Node, sets: Sequence[str]) -> Node:
    """Set values in a tree, in order.

    Args:
        root: the tree; it is not changed.
        sets: texts such as ``surgeries[1].with.rank=8``; the value is read as YAML.

    Returns:
        The new tree; the new values name the option as their place.

    Raises:
        RecipeError: a text is no such assignment, or leads to no place in the tree.
    """
    for text in sets:
        location, value = parse(text)
        root = _put(root, location, value, f"--set {text}")
    return root


def parse(text: str) -> tuple[Location, Node]:
    """Read one assignment.

    Raises:
        RecipeError: the text is none, or its value is no strict YAML.
    """
    where = f"--set {text}"
    path, equals, value = text.partition("=")
    location = _location(path)
    if not equals or not location or len(location) > MAX_DEPTH:
        raise RecipeError(where, "KEY.KEY=VALUE such as surgeries.1.with.rank=8", repr(text))
    document = read_yaml(value, where)
    for _, problem in document.problems:
        raise problem
    mark = Mark(where)
    node = document.root or Node(None, mark)
    return location, _marked(node, mark)


def _location(path: str) -> Location:
    parts = _BRACKETS.sub(r".\1", path).split(".")
    if not all(_PART.fullmatch(part) for part in parts):
        return ()
    return tuple(int(part) if _NUMBER.fullmatch(part) else part for part in parts)


def _marked(node: Node, mark: Mark) -> Node:
    if isinstance(node.value, tuple):
        return replace(node, value=tuple(_marked(n, mark) for n in node.value), mark=mark)
    children = {key: _marked(child, mark) for key, child in node.children.items()}
    value = children if node.children else node.value
    return replace(node, value=value, mark=mark, key=mark)


def _put(node: Node, location: Location, value: Node, where: str) -> Node:
    if not location:
        return replace(value, key=value.mark)
    part, rest = location[0], location[1:]
    if isinstance(node.value, tuple):
        return _put_item(node, part, rest, value, where)
    if not isinstance(node.value, dict) and node.value is not None:
        found = f"{shown(plain(node))}"
        raise RecipeError(where, f"keys or a list to hold {part!r}", found)
    key = str(part)
    below = node.children.get(key) or Node(None, value.mark, value.mark)
    return replace(node, value={**node.children, key: _put(below, rest, value, where)})


def _put_item(node: Node, part: str | int, rest: Location, value: Node, where: str) -> Node:
    items = list(node.items)
    if not isinstance(part, int) or part >= len(items):
        known = [str(number) for number in range(len(items))]
        wanted = f"a number below {len(items)}" if items else "a list with entries"
        raise RecipeError(where, wanted, repr(part), did_you_mean(str(part), known))
    items[part] = _put(items[part], rest, value, where)
    return replace(node, value=tuple(items))
