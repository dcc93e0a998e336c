"""``surgery schema``: what editors need to complete and check recipes."""

from __future__ import annotations

import json

import click

from surgery.cli.session import Session, common


@click.command()
@common
def schema(session: Session) -> None:
    """Print the JSON Schema of recipes, for editors.

    Write it beside your recipes as recipe.schema.json; it knows all installed plugins. The
    output is JSON with and without --json.
    """
    from surgery.recipe.json_schema import recipe_schema

    assembled = recipe_schema(session.registry)
    click.echo(json.dumps(assembled.schema, indent=2, allow_nan=False))
    for one in (*session.registry.faults, *session.registry.clashes(), *assembled.faults):
        session.remark(f"warning: {getattr(one, 'error', one)}")
