"""``surgery undo``: a checkpoint without one of its surgeries, or without any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.places import PLACE, TARGET
from surgery.cli.run_options import run_of, run_options
from surgery.cli.session import Session, common

if TYPE_CHECKING:
    from surgery.checkpoint.urls import Folder


@click.command()
@click.argument("folder", metavar="OUT", type=PLACE)
@click.option("--into", required=True, metavar="DIR", type=TARGET, help="Where to write.")
@click.option(
    "--surgery", "number", type=click.IntRange(min=0), metavar="N",
    help="Only this one, counted from 0 as in the plan and the journal; all if left out.",
)  # fmt: skip
@click.option("--base", metavar="DIR", type=PLACE, help="Where the base is now, if it moved.")
@run_options
@common
def undo(
    session: Session, folder: str | Path, into: Folder, number: int | None, **options: Any
) -> None:
    """Write a checkpoint without one of its surgeries, or any.

    OUT is the checkpoint; every bit of what is left is as it was.
    """
    from surgery.flow.undo import undo_all, undo_one
    from surgery.report.outcome import outcome_json, outcome_text

    base, force = options.pop("base"), options["force"]
    if number is None:
        undo_all(folder, into, session.registry, base=base, force=force)
        session.result({"folder": str(into)}, f"the base, as it was: {into}")
        return
    with run_of(session, options) as run:
        outcome = undo_one(
            folder, number, into, session.registry, base=base, run=run,
        )  # fmt: skip
    session.result(outcome_json(outcome), "" if session.json else outcome_text(outcome))
