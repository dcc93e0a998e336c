"""``surgery plan``: the exact change, before a weight is read."""

from __future__ import annotations

from typing import Any

import click

from surgery.cli.recipe_options import read, recipe_options
from surgery.cli.session import Session, common


@click.command()
@recipe_options
@common
def plan(session: Session, recipe: str, sets: tuple[str, ...], **options: Any) -> None:
    """Show the exact change that a recipe makes; no weight is read.

    RECIPE is a file, or the name of a shipped recipe (see `surgery recipes`).
    """
    given = read(session, recipe, sets, options["output"], options["trust_remote_code"])
    from surgery.flow.recipe import plan_recipe
    from surgery.report.console import rendered
    from surgery.report.plan import plan_tree

    made = plan_recipe(given, session.registry).plan
    session.result(made.to_json(), "" if session.json else rendered(plan_tree(made)))
