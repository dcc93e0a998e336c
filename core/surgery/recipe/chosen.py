"""Read a choice among what plugins offer, whose options stand beside its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery.hooks.registry import Registry
from surgery.recipe.messages import Problem, checked
from surgery.recipe.nodes import Location, Node, mistake
from surgery.recipe.rooted import rooted
from surgery.recipe.steps import offered


def chosen(
    node: Node, key: str, kind: str, at: Location, registry: Registry, folder: Path
) -> tuple[Any, list[Problem]]:
    """Read one choice.

    Args:
        node: a mapping of the name and the options.
        key: the key of the name.
        kind: as in ``Registry.offer``.
        at: where it stands in the recipe.
        registry: what plugins offer.
        folder: what relative paths refer to.

    Returns:
        What was chosen with its options, or None where there are mistakes; and all of them.
    """
    if not isinstance(node.value, Mapping):
        return None, []
    named = node.child(key)
    if named is None or not isinstance(named.value, str):
        names = ", ".join(registry.names(kind))
        hint = f"choose from {names}" if names else ""
        mark, place = (named.mark, (*at, key)) if named else (node.mark, at)
        return None, [(mark, mistake(mark, place, f"the key '{key}' with text", "none", hint))]
    cls, problems = offered(named, registry, kind, (*at, key))
    if cls is None:
        return None, problems
    options = replace(node, value={k: child for k, child in node.value.items() if k != key})
    return checked(cls, rooted(options, folder, cls), at, registry)
