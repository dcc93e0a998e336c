"""What commands on recipes share: the recipe, its overrides, its lock, consent to remote code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.completion import recipes
from surgery.cli.progress import bytes_bar
from surgery.cli.session import Session

if TYPE_CHECKING:
    from surgery.recipe.recipe import Recipe

_READING = (
    click.argument("recipe", metavar="RECIPE", shell_complete=recipes),
    click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override one value of the recipe, such as surgeries.1.with.rank=8; repeatable.",
    ),
    click.option(
        "--trust-remote-code",
        is_flag=True,
        help="Consent to run the code that comes with a model, where the recipe asks for it.",
    ),
)
_DOING = (
    click.option("--output", metavar="DIR", help="Where to write, relative to the current folder."),
    click.option(
        "--locked",
        is_flag=True,
        help="Refuse where anything is not as in the recipe's lock (see `surgery lock`).",
    ),
)


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the recipe argument and the options that decide how it is read."""
    for option in reversed(_READING):
        command = option(command)
    return command


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the recipe argument and its options."""
    for option in reversed((*_READING, *_DOING)):
        command = option(command)
    return command


def read(session: Session, recipe: str, sets: Sequence[str], options: Mapping[str, Any]) -> Recipe:
    """Read the recipe that a command was given, and remember the user's consent.

    Where the user asks for it, the recipe is checked against its lock.
    """
    from surgery.checkpoint.urls import folder_at
    from surgery.operate.trust import CONSENT
    from surgery.recipe.read import read_recipe
    from surgery.recipe.schema import Output

    CONSENT.set(options["trust_remote_code"])
    found = read_recipe(recipe, registry=session.registry, sets=tuple(sets))
    if options.get("locked"):
        _check_lock(session, found)
    output = options.get("output")
    if output is not None:
        before = found.output or Output(path=output)
        found = replace(found, output=before.model_copy(update={"path": str(folder_at(output))}))
    return found


@contextmanager
def hashing(session: Session) -> Iterator[Callable[[int], None]]:
    """Show how many bytes were hashed; the function that it gives may be called from threads."""
    lock, seen = Lock(), [0]
    with bytes_bar(session, "digest") as show:

        def advance(count: int) -> None:
            with lock:
                seen[0] += count
                show(seen[0], None)

        yield advance


def _check_lock(session: Session, recipe: Recipe) -> None:
    from surgery.recipe.lock import check_lock

    with hashing(session) as advance:
        check_lock(recipe, session.registry, advance)
