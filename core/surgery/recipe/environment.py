"""Put environment variables where a recipe says ``${env:NAME}``, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from surgery.errors import RecipeError
from surgery.recipe.nodes import Location, Mark, Node, mistake
from surgery.recipe.scalars import resolve

_DOLLAR = re.compile(r"\$\$\{|\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}|\$\{[^}]*\}?")
_Problem = tuple[Mark, RecipeError]


def expand(
    root: Node, environment: Mapping[str, str], at: Location = ()
) -> tuple[Node, list[_Problem]]:
    """Replace ``${env:NAME}`` and ``${env:NAME:-default}`` in the text values of a tree.

    A value without quotes that is nothing but one such mark is read like any value without
    quotes, so it may become a number; in all other places the result is text. ``$${`` stands
    for ``${``. Keys are left alone, and what a variable holds is not looked at again.

    Args:
        root: the tree.
        environment: the variables.
        at: where the tree hangs, for errors.

    Returns:
        The new tree, and the mistakes with their places.
    """
    if isinstance(root.value, Mapping):
        pairs = {k: expand(child, environment, (*at, k)) for k, child in root.value.items()}
        problems = [one for _, found in pairs.values() for one in found]
        return replace(root, value={k: child for k, (child, _) in pairs.items()}), problems
    if isinstance(root.value, tuple):
        done = [expand(child, environment, (*at, i)) for i, child in enumerate(root.value)]
        problems = [one for _, found in done for one in found]
        return replace(root, value=tuple(child for child, _ in done)), problems
    if isinstance(root.value, str) and "${" in root.value:
        return _expanded(root, root.value, environment, at)
    return root, []


def escape(text: str) -> str:
    """Write a text so that ``expand`` gives it back."""
    return text.replace("${", "$${")


def _expanded(
    node: Node, text: str, environment: Mapping[str, str], at: Location
) -> tuple[Node, list[_Problem]]:
    try:
        new = _DOLLAR.sub(partial(_value, environment), text)
        whole = _DOLLAR.fullmatch(text) if node.plain else None
        return replace(node, value=resolve(new) if whole and whole[1] else new), []
    except _WrongError as wrong:
        return node, [(node.mark, mistake(node.mark, at, *wrong.args))]
    except ValueError as error:
        return node, [(node.mark, mistake(node.mark, at, "a short number", str(error)))]


class _WrongError(Exception):
    """Carry wanted, found and instead of one mark out of ``re.sub``."""


def _value(environment: Mapping[str, str], found: re.Match[str]) -> str:
    text, name, default = found[0], found[1], found[2]
    if text == "$${":
        return "${"
    if name is None:
        hint = "write $${ for a literal ${"
        raise _WrongError("${env:NAME} or ${env:NAME:-default}", repr(text), hint)
    value = environment.get(name, default)
    if value is None:
        hint = f"set it, or write ${{env:{name}:-default}}"
        raise _WrongError(f"the environment variable {name}", "none of that name", hint)
    return value
