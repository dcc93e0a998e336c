"""``surgery apply``: make the change, prove it, and publish the result."""

from __future__ import annotations

from typing import Any

import click

from surgery.cli.recipe_options import read, recipe_options
from surgery.cli.session import Session, common


@click.command()
@recipe_options
@click.option("--force", is_flag=True, help="Replace an existing output, by one rename.")
@click.option(
    "--prove-forward",
    is_flag=True,
    help="Compare a forward before and after, however large the model is.",
)
@common
def apply(session: Session, recipe: str, sets: tuple[str, ...], **options: Any) -> None:
    """Make the change of a recipe, prove it, and write the result.

    RECIPE is a file, or the name of a shipped recipe (see `surgery recipes`).
    """
    given = read(session, recipe, sets, options["output"], options["trust_remote_code"])
    from surgery.flow.recipe import apply_recipe
    from surgery.report.outcome import outcome_json, outcome_text

    outcome = apply_recipe(
        given,
        session.registry,
        force=options["force"],
        always_forward=options["prove_forward"],
        report=lambda what: session.remark(f"{what} ..."),
    )
    session.result(outcome_json(outcome), "" if session.json else outcome_text(outcome))
