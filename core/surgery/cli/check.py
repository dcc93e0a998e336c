"""``surgery check``: contracts and a forward on meta, before a weight is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgery.cli.input_options import input_options, inputs_of
from surgery.cli.recipe_options import read, recipe_options
from surgery.cli.session import Session, common

if TYPE_CHECKING:
    from surgery.recipe.recipe import Recipe


@click.command()
@recipe_options
@input_options
@click.option("--train", is_flag=True, help="Make one training step and throw it away.")
@click.option("--strict", is_flag=True, help="Fail also where a check could not be made.")
@common
def check(
    session: Session,
    recipe: str,
    sets: tuple[str, ...],
    inputs: tuple[tuple[str, tuple[int, ...], str | None], ...],
    image_size: tuple[int, int] | None,
    train: bool,
    strict: bool,
    **options: Any,
) -> int:
    """Check that a recipe's result holds together; no weight is read.

    RECIPE is a file, or the name of a shipped recipe (see `surgery recipes`). The forward computes
    nothing, so it takes seconds and little memory for a model of any size. Its inputs are those of
    the recipe, `check: {inputs: {pixel_values: [1, 3, 224, 224]}}`; what is not stated is guessed.
    With --train the weights are read and one training step is made and thrown away: whether the
    model loads and freezes, runs at several sizes, fits into memory, and what is frozen stays so.
    The exit status is 0 where checks were made and none failed, otherwise 1; what could not be
    checked is listed as skipped, and fails with --strict.
    """
    given = read(session, recipe, sets, options)
    if train:
        return _train(session, given, image_size)
    from surgery.flow.check import check_recipe
    from surgery.report.check import complaint, examined_json, examined_text

    found = check_recipe(given, session.registry, inputs_of(inputs, image_size))
    ok = found.ok and (found.complete or not strict)
    session.result(examined_json(found), examined_text(found), ok=ok)
    if not ok:
        session.complain(complaint(found))
    return 0 if ok else 1


def _train(session: Session, recipe: Recipe, image_size: tuple[int, int] | None) -> int:
    """Make one step of the recipe's training, and report."""
    from surgery.report.preflight import preflight_json, preflight_text
    from surgery.training.preflight import preflight

    found = preflight(recipe, session.registry, [image_size] if image_size else [])
    session.result(preflight_json(found), preflight_text(found), ok=found.ok)
    return 0 if found.ok else 1
