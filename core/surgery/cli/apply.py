"""``surgery apply``: make the change, prove it, and publish the result."""

from __future__ import annotations

from typing import Any

import click

from surgery.cli.recipe_options import read, recipe_options
from surgery.cli.run_options import run_of, run_options
from surgery.cli.session import Session, common


@click.command()
@recipe_options
@click.option(
    "--prove-forward",
    is_flag=True,
    help="Compare a forward before and after, however large the model is.",
)
@run_options
@common
def apply(session: Session, recipe: str, sets: tuple[str, ...], **options: Any) -> None:
    """Make the change of a recipe, prove it, and write the result.

    RECIPE is a file, or the name of a shipped recipe (see `surgery recipes`).
    """
    given = read(session, recipe, sets, options)
    from surgery.flow.recipe import apply_recipe
    from surgery.report.outcome import outcome_json, outcome_text

    with run_of(session, options) as run:
        outcome = apply_recipe(
            given,
            session.registry,
            run,
            always_forward=options["prove_forward"],
        )
    session.result(outcome_json(outcome), "" if session.json else outcome_text(outcome))
