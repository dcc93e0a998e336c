"""What ``plan`` and ``apply`` share: the recipe, its overrides, and consent to remote code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.session import Session

if TYPE_CHECKING:
    from surgery.recipe.recipe import Recipe

_OPTIONS = (
    click.argument("recipe", metavar="RECIPE"),
    click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override one value of the recipe, such as surgeries.1.with.rank=8; repeatable.",
    ),
    click.option("--output", metavar="DIR", help="Where to write, relative to the current folder."),
    click.option(
        "--trust-remote-code",
        is_flag=True,
        help="Consent to run the code that comes with a model, where the recipe asks for it.",
    ),
)


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the recipe argument and its options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read(
    session: Session, recipe: str, sets: Sequence[str], output: str | None, trust: bool
) -> Recipe:
    """Read the recipe that a command was given, and remember the user's consent."""
    from pathlib import Path

    from surgery.operate.trust import CONSENT
    from surgery.recipe.read import read_recipe
    from surgery.recipe.schema import Output

    CONSENT.set(trust)
    found = read_recipe(recipe, registry=session.registry, sets=tuple(sets))
    if output is not None:
        before = found.output or Output(path=output)
        found = replace(
            found, output=before.model_copy(update={"path": str(Path(output).resolve())})
        )
    return found
