"""``surgery launch``: print what starts a training on several devices or machines."""

from __future__ import annotations

from typing import Any

import click

from surgery.cli.completion import recipes
from surgery.cli.session import Session, common
from surgery.training.launch import LAUNCHERS, Job


@click.command()
@click.argument("recipe", metavar="RECIPE", shell_complete=recipes)
@click.option(
    "--print", "launcher", type=click.Choice(list(LAUNCHERS)), default="torchrun",
    show_default=True, help="What starts the processes.",
)  # fmt: skip
@click.option("--machines", type=click.IntRange(1), default=1, show_default=True, help="Machines.")
@click.option(
    "--processes", type=click.IntRange(1), default=1, show_default=True,
    help="Processes of each machine, one for each device.",
)  # fmt: skip
@click.option("--devices", metavar="KIND", help="Kind of accelerator, such as A100; none: CPUs.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Passed on to train.")
@common
def launch(session: Session, recipe: str, **options: Any) -> None:
    """Print what starts a training on several devices or machines.

    The recipe is read first, so that mistakes show here and not on a cluster. Each script goes
    on from the run's last checkpoint, where there is one.
    """
    from surgery.flow.recipe import output_of
    from surgery.recipe.read import read_recipe
    from surgery.training.setup import setup_of

    given = read_recipe(recipe, registry=session.registry, sets=tuple(options["sets"]))
    setup_of(given, output_of(given))
    job = Job(
        recipe, given.name.removesuffix(".yaml"), options["machines"], options["processes"],
        options["devices"], tuple(options["sets"]), tuple(map(str, session.plugins)),
    )  # fmt: skip
    text = LAUNCHERS[options["launcher"]](job)
    session.result({"launcher": options["launcher"], "script": text}, text.rstrip())
