"""Read a recipe: every mistake at once, each with its place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from surgery.errors import Problems
from surgery.hooks.registry import Registry
from surgery.operate.source import Source
from surgery.operate.step import Step
from surgery.recipe.environment import expand
from surgery.recipe.include import open_recipe
from surgery.recipe.messages import Problem, checked
from surgery.recipe.nodes import Node, in_order, mistake
from surgery.recipe.override import override
from surgery.recipe.pins import wrong_pins
from surgery.recipe.recipe import Recipe, resolve
from surgery.recipe.schema import RecipeForm
from surgery.recipe.steps import offered, read_step


def read_recipe(
    recipe: str | Path | Mapping[str, Any],
    *,
    registry: Registry,
    sets: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Recipe:
    """Read and check a recipe.

    Relative paths in it (``output.path``, and in ``patient:`` every option that is a path or
    begins with ``./`` or ``../``) refer to the recipe file's folder; in a shipped recipe, a
    text and plain data they refer to the current folder.

    Args:
        recipe: a file, the name of a shipped recipe, a text of several lines, or plain data.
        registry: what plugins offer.
        sets: overrides such as ``surgeries.1.with.rank=8``.
        environment: where ``${env:NAME}`` is looked up.

    Returns:
        The recipe, with a surgery object in each of its steps.

    Raises:
        RecipeError: the recipe cannot be read as YAML, or an override leads nowhere.
        Problems: all other mistakes, in the order of their places.
    """
    opened = open_recipe(recipe)
    root, problems = expand(override(opened.root, sets), environment)
    form, found = checked(RecipeForm, root)
    problems += [*opened.problems, *found, *wrong_pins(root.child("plugins"), registry)]
    steps, found = _steps(root.child("surgeries"), registry, opened.folder)
    problems += found
    patient, found = _patient(root.child("patient"), registry, opened.folder)
    problems += found
    if form is None or problems:
        raise Problems(opened.source, in_order(problems))
    return Recipe(
        steps=tuple(steps),
        patient=patient,
        seed=form.seed,
        output=form.output,
        check=form.check,
        train=form.train,
        plugins=form.plugins or {},
        name=opened.source,
        folder=opened.folder,
    )


def _steps(node: Node | None, registry: Registry, folder: Path) -> tuple[list[Step], list[Problem]]:
    read = [
        read_step(_rooted_step(item, folder), registry, ("surgeries", number))
        for number, item in enumerate(node.items if node else ())
        if isinstance(item.value, Mapping)
    ]
    return [s for steps, _ in read for s in steps], [p for _, found in read for p in found]


def _rooted_step(item: Node, folder: Path) -> Node:
    """Make the relative paths among a surgery's options absolute: those that begin with a dot."""
    options = item.child("with")
    if options is None:
        return item
    return replace(item, value={**item.children, "with": _rooted_options(options, folder)})


def _rooted_options(node: Node, folder: Path) -> Node:
    if isinstance(node.value, str) and _is_dotted(node.value):
        return replace(node, value=str(resolve(node.value, folder)))
    inner = {key: _rooted_options(child, folder) for key, child in node.children.items()}
    return replace(node, value=inner) if isinstance(node.value, Mapping) else node


def _patient(
    node: Node | None, registry: Registry, folder: Path
) -> tuple[Source | None, list[Problem]]:
    if node is None or not isinstance(node.value, Mapping):
        return None, []
    named = node.child("source")
    if named is None or not isinstance(named.value, str):
        mark = named.mark if named else node.mark
        at = ("patient", "source") if named else ("patient",)
        names = ", ".join(registry.names("source"))
        hint = f"choose from {names}" if names else ""
        return None, [(mark, mistake(mark, at, "the key 'source' with text", "none", hint))]
    cls, problems = offered(named, registry, "source", ("patient", "source"))
    if cls is None:
        return None, problems
    options = {key: child for key, child in node.value.items() if key != "source"}
    return checked(cls, replace(node, value=_rooted(cls, options, folder)), ("patient",))


def _rooted(cls: type[Source], options: Mapping[str, Node], folder: Path) -> dict[str, Node]:
    """Make the paths among a source's options absolute."""
    return {
        key: replace(node, value=str(resolve(node.value, folder)))
        if isinstance(node.value, str) and _is_path(cls, key, node.value)
        else node
        for key, node in options.items()
    }


def _is_path(cls: type[Source], key: str, text: str) -> bool:
    annotation = cls.model_fields[key].annotation if key in cls.model_fields else None
    return _is_dotted(text) or Path in (annotation, *get_args(annotation))


def _is_dotted(text: str) -> bool:
    return text in (".", "..") or text.startswith(("./", "../", "~/"))
