"""``surgery lock``: what a recipe's result depends on, written down beside it."""

from __future__ import annotations

from typing import Any

import click

from surgery.cli.recipe_options import hashing, read, reading_options
from surgery.cli.session import Session, common


@click.command()
@reading_options
@click.option("--check", is_flag=True, help="Write nothing; refuse where anything has drifted.")
@common
def lock(session: Session, recipe: str, sets: tuple[str, ...], check: bool, **options: Any) -> None:
    """Write down all that a recipe's result depends on.

    Beside RECIPE, NAME.yaml.lock then holds the recipe's values, the versions of Python, plugins
    and libraries, and the digests of base and data. With --locked, `surgery plan`, `apply`,
    `train`, `check` and `diagnose` refuse where anything is not as in it.
    """
    given = read(session, recipe, sets, options)
    from surgery.recipe.lock import check_lock, read_lock, write_lock

    with hashing(session) as advance:
        file = (check_lock if check else write_lock)(given, session.registry, advance)
    held = read_lock(file)
    counts = {"base": len(held["base"]), "data": sum(map(len, held["data"].values()))}
    text = f"{file}: files of the base {counts['base']}, of data {counts['data']}, plugins "
    data = {"lock": str(file), **{k: held[k] for k in ("versions", "plugins", "base", "data")}}
    session.result(data, text + ", ".join(f"{n} {v}" for n, v in held["plugins"].items()))
