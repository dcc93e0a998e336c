"""``surgery extract``: write the difference of two checkpoints as an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.completion import models, offers
from surgery.cli.progress import steps_bar
from surgery.cli.session import Session, common

if TYPE_CHECKING:
    from surgery.anatomy.selector import Selector


@click.command()
@click.argument("tuned", metavar="TUNED", shell_complete=models)
@click.argument("base", metavar="BASE", shell_complete=models)
@click.option(
    "--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Where to write."
)
@click.option("--rank", type=click.IntRange(min=1), help="The rank of every weight's change.")
@click.option(
    "--energy",
    type=click.FloatRange(0, 1, min_open=True),
    help="Instead: the share of each change's energy to hold, which decides its rank. "
    "0.99 where neither is given.",
)
@click.option(
    "--at",
    "keys",
    multiple=True,
    metavar="KEY=VALUE",
    help="Which weights, by the keys of `at:` in a recipe, such as role=attention.q,attention.v "
    "or layers=4-11; repeatable.",
)
@click.option(
    "--use", metavar="NAME", shell_complete=offers("surgery"),
    help="The surgery; by default the only one that can.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing output, by one rename.")
@common
def extract(
    session: Session, tuned: str, base: str, out: Path, keys: tuple[str, ...], **options: Any
) -> None:
    """Write the difference of two checkpoints as an adapter.

    The output is a surgery on the base, such as low-rank adapters. TUNED is a folder with a
    model, a folder that `surgery apply` wrote, or a weight file; BASE is a folder with a model,
    or SOURCE:NAME such as demo:minilm.
    """
    if options["rank"] is not None and options["energy"] is not None:
        raise click.UsageError("give --rank or --energy, not both")
    from surgery.flow.extract import Wanted
    from surgery.flow.extract import extract as make
    from surgery.report.extract import extract_lines

    with steps_bar(session, "express") as show:

        def report(what: str, done: int, total: int) -> None:
            if not done:
                session.remark(f"{what} {total} changes ..." if total else f"{what} ...")
            show(done, total or None, "")

        made = make(
            tuned,
            base,
            out,
            Wanted(options["rank"], options["energy"], _selector(keys), options["use"]),
            force=options["force"],
            plugins=session.registry,
            report=report,
        )
    session.result(made.to_json(), "\n".join(extract_lines(made)))


def _selector(keys: tuple[str, ...]) -> Selector:
    """Make a selector of KEY=VALUE; commas part entries, except those of regular expressions."""
    from surgery.anatomy.selector import EVERYWHERE, selector_of

    given: dict[str, list[str]] = {}
    for text in keys:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--at")
        given.setdefault(key, []).extend([value] if key == "match" else value.split(","))
    return selector_of({"path": EVERYWHERE, **given}, "--at")
