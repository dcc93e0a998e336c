"""``surgery merge``: fold adapters into their weights."""

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
@click.option("--base", metavar="DIR", type=PLACE, help="Where the base is now, if it moved.")
@click.option(
    "--extension", "extensions", multiple=True, metavar="NAME",
    help="Only extensions of this name, such as 'lora.default*'; repeatable.",
)  # fmt: skip
@click.option("--changed", is_flag=True, help="Write the changed tensors alone, not a whole model.")
@run_options
@common
def merge(session: Session, folder: str | Path, into: Folder, **options: Any) -> None:
    """Fold adapters into their weights.

    OUT is a checkpoint with adapters. The result loads as a plain model. `surgery undo` gives
    the adapters back, bit for bit.
    """
    from surgery.flow.merge import merge_output
    from surgery.report.outcome import outcome_json, outcome_text

    with run_of(session, options) as run:
        outcome = merge_output(
            folder, into, session.registry,
            extensions=options["extensions"] or ("*",), base=options["base"],
            whole=not options["changed"], run=run,
        )  # fmt: skip
    session.result(outcome_json(outcome), "" if session.json else outcome_text(outcome))
