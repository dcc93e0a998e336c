"""Versions of the recipe format: refuse others, and bring older ones to the present one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, TypeAlias

from surgery.errors import RecipeError
from surgery.recipe.nodes import Mark, Node, mistake, plain
from surgery.recipe.schema import FORMAT

Migration: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns a recipe of one version into one of the next; a pure function of plain data.

It gets the file as it is written: ``${env:NAME}`` is still a text, ``extends`` a name, and a key
may end in ``+``. The key ``recipe`` is set by whoever calls it. A file that others extend may
hold a part of a recipe only, so no other key is sure to be there.
"""

MIGRATIONS: dict[int, Migration] = {}
"""For each older version, the migration to the next one."""


def check_version(root: Node, source: str) -> None:
    """Refuse a recipe of another version; what is no number at all is left to the form.

    Args:
        root: the tree of one file.
        source: how errors name the file.

    Raises:
        RecipeError: the file is of another version; says what to do.
    """
    named = root.child("recipe")
    if named is None or type(named.value) is not int or named.value == FORMAT:
        return
    hint = f"run: surgery migrate {source}" if named.value in MIGRATIONS else _hint(named.value)
    raise _unknown(named.mark, named.value, hint)


def migrated(
    data: Mapping[str, Any],
    migrations: Mapping[int, Migration] | None = None,
    target: int = FORMAT,
    mark: Mark | None = None,
) -> dict[str, Any]:
    """Bring a recipe to a version of the format, one version at a time.

    Args:
        data: the recipe as plain data; it is not changed.
        migrations: by the version that they begin at; those of this package if None.
        target: the version to reach.
        mark: the place that errors name.

    Returns:
        The recipe in that version; equal to ``data`` where it is of that version already.

    Raises:
        RecipeError: the recipe is of no known version, or of a newer one.
    """
    known = MIGRATIONS if migrations is None else migrations
    version, found = data.get("recipe"), deepcopy(dict(data))
    if type(version) is not int:
        hint = f"begin with `recipe: {target}`"
        raise mistake(mark or Mark(), ("recipe",), "the version of the recipe format", "none", hint)
    while version != target:
        if version not in known or version > target:
            raise _unknown(mark or Mark(), version, _hint(version), target)
        version += 1
        found = {**known[version - 1](deepcopy(found)), "recipe": version}
    return found


def _unknown(mark: Mark, version: int, hint: str, target: int = FORMAT) -> RecipeError:
    wanted = f"version {target} of the recipe format"
    return mistake(mark, ("recipe",), wanted, f"version {version}", hint)


def _hint(version: int) -> str:
    if version > FORMAT:
        return "a newer surgery wrote it; run: pip install --upgrade model-surgery"
    return f"there is no such version; write `recipe: {FORMAT}`"


def version_of(root: Node) -> Any:
    """Give what a recipe says about its version, or None."""
    named = root.child("recipe")
    return None if named is None else plain(named)
