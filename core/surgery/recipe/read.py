"""Read a recipe: every mistake at once, each with its place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery.errors import Problems
from surgery.hooks.registry import Registry
from surgery.operate.source import Source
from surgery.operate.step import Step
from surgery.recipe.chosen import chosen
from surgery.recipe.environment import expand
from surgery.recipe.include import open_recipe
from surgery.recipe.messages import Problem, checked
from surgery.recipe.nodes import Node, in_order, plain
from surgery.recipe.override import override
from surgery.recipe.pins import wrong_pins
from surgery.recipe.recipe import Recipe
from surgery.recipe.rooted import rooted
from surgery.recipe.schema import RecipeForm
from surgery.recipe.steps import read_step
from surgery.recipe.training import read_training


def read_recipe(
    recipe: str | Path | Mapping[str, Any],
    *,
    registry: Registry,
    sets: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Recipe:
    """Read and check a recipe.

    Relative paths in it (``output.path``, and in ``patient:`` and ``train:`` every option that is
    a path or begins with ``./`` or ``../``) refer to the recipe file's folder; in a shipped
    recipe, a text and plain data they refer to the current folder.

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
    train, found = read_training(root.child("train"), registry, opened.folder)
    problems += found
    if form is None or problems:
        raise Problems(opened.source, in_order(problems))
    return Recipe(
        steps=tuple(steps),
        patient=patient,
        seed=form.seed,
        output=form.output,
        check=form.check,
        train=train,
        plugins=form.plugins or {},
        name=opened.source,
        folder=opened.folder,
        written=plain(root),
    )


def _steps(node: Node | None, registry: Registry, folder: Path) -> tuple[list[Step], list[Problem]]:
    read = [
        read_step(_rooted_step(item, folder), registry, ("surgeries", number))
        for number, item in enumerate(node.items if node else ())
        if isinstance(item.value, Mapping)
    ]
    return [s for steps, _ in read for s in steps], [p for _, found in read for p in found]


def _patient(
    node: Node | None, registry: Registry, folder: Path
) -> tuple[Source | None, list[Problem]]:
    if node is None:
        return None, []
    return chosen(node, "source", "source", ("patient",), registry, folder)


def _rooted_step(item: Node, folder: Path) -> Node:
    """Make the relative paths among a surgery's options absolute: those that begin with a dot."""
    options = item.child("with")
    if options is None:
        return item
    return replace(item, value={**item.children, "with": rooted(options, folder)})
