"""``surgery plan``: the exact change, before a weight is read."""

from __future__ import annotations

from typing import Any

import click

from surgery.cli.recipe_options import read, recipe_options
from surgery.cli.session import Session, common


@click.command()
@recipe_options
@common
def plan(session: Session, recipe: str, sets: tuple[str, ...], **options: Any) -> int:
    """Show the exact change that a recipe makes; no weight is read.

    RECIPE is a file, or the name of a shipped recipe (see `surgery recipes`). The exit status is 1
    where no apply would pass: the result breaks a contract of its family of models, or is to be
    written whole (`save: full`) and its configuration cannot say what it is.
    """
    given = read(session, recipe, sets, options)
    from surgery.checks.check import FAILED
    from surgery.flow.plain import prove_plain_ahead
    from surgery.flow.prove import contracts
    from surgery.flow.recipe import plan_recipe, source_of_recipe
    from surgery.report.planned import planned_json, planned_text

    operation = plan_recipe(given, session.registry)
    checks = list(contracts(operation.patient, session.registry.families()))
    if given.output is not None and given.output.save == "full":
        checks.append(prove_plain_ahead(source_of_recipe(given), operation))
    bad = [one for one in checks if one.status == FAILED]
    text = "" if session.json else planned_text(operation.plan, checks)
    session.result(planned_json(operation.plan, checks), text, ok=not bad)
    for one in bad:
        session.complain(f"{one.name}: {one.detail}")
    return 1 if bad else 0
