"""``surgery recipes``: the shipped recipes."""

from __future__ import annotations

from pathlib import Path

import click

from surgery.cli.completion import recipes as recipe_names
from surgery.cli.session import Session, common


@click.group(invoke_without_command=True)
@common
@click.pass_context
def recipes(context: click.Context, session: Session) -> None:
    """List the shipped recipes, or copy one."""
    from surgery.recipe.shipped import shipped, summary

    if context.invoked_subcommand is not None:
        return
    found = {name: summary(recipe) for name, recipe in shipped().items()}
    width = max(map(len, found), default=0)
    lines = [f"{name:{width}}  {text}".rstrip() for name, text in found.items()]
    listed = [{"name": name, "summary": text} for name, text in found.items()]
    session.result({"recipes": listed}, "\n".join(lines) or "no recipes are shipped")


@recipes.command()
@click.argument("name", shell_complete=recipe_names)
@click.argument("target", default=".", type=click.Path(path_type=Path))
@common
def copy(session: Session, name: str, target: Path) -> None:
    """Copy the recipe NAME to TARGET, a file or a folder, to edit it; never over a file."""
    from surgery.recipe.shipped import copy_shipped

    file = copy_shipped(name, target)
    session.result({"file": str(file)}, str(file))
