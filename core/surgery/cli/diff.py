"""``surgery diff``: in what do two checkpoints differ?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from surgery.cli.completion import models
from surgery.cli.places import PLACE
from surgery.cli.session import Session, common
from surgery.errors import PatientError, SurgeryError

DIFFERS = 1
TROUBLE = 2


@click.command()
@click.argument("a", metavar="A", shell_complete=models)
@click.argument("b", metavar="[B]", required=False, shell_complete=models)
@click.option("--base", type=PLACE, help="Where an output's base is now.")
@click.option(
    "--energy",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.999,
    show_default=True,
    help="Share of a change's energy that a rank must hold to be called its rank.",
)
@click.option("--no-rank", is_flag=True, help="Look for no ranks; large changes are read once.")
@common
def diff(
    session: Session, a: str, b: str | None, base: str | Path | None, energy: float, no_rank: bool
) -> int:
    """Show in what two checkpoints differ.

    Tensors, configuration, tokenizer and journal are compared. A and B are folders with a model,
    folders that `surgery apply` wrote, weight files, or SOURCE:NAME such as demo:minilm. One
    output alone is compared with its base. The exit status is 0 where nothing differs, 1 where
    something does, and 2 or more where there is trouble.
    """
    from surgery.cli.progress import bytes_bar
    from surgery.flow.diff import diff as compare
    from surgery.report.console import rendered
    from surgery.report.diff import diff_tree

    with _trouble(a), bytes_bar(session, "compare") as advance:
        found = compare(
            a,
            b,
            base=base,
            energy=None if no_rank else energy,
            plugins=session.registry,
            progress=advance,
        )
    session.result(found.to_json(), "" if session.json else rendered(diff_tree(found)), styled=True)
    return DIFFERS if found.differs else 0


@contextmanager
def _trouble(name: str) -> Iterator[None]:
    """Keep the exit status 1 for sides that differ."""
    try:
        yield
    except SurgeryError as error:
        error.exit_status = max(error.exit_status, TROUBLE)
        raise
    except OSError as error:
        wrapped = PatientError(error.filename or name, "a file that can be read", f"'{error}'")
        wrapped.exit_status = TROUBLE
        raise wrapped from error
