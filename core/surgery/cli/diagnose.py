"""``surgery diagnose``: which surgery breaks a model, where, and which contract."""

from __future__ import annotations

from typing import Any

import click

from surgery.cli.input_options import input_options, inputs_of
from surgery.cli.recipe_options import read, recipe_options
from surgery.cli.session import Session, common


@click.command()
@recipe_options
@input_options
@click.option("--random", is_flag=True, help="Draw the weights; none is read.")
@click.option(
    "--data-parallel",
    "parallel",
    is_flag=True,
    help="Also run on two replicas: nn.DataParallel, and DistributedDataParallel on the CPU.",
)
@common
def diagnose(
    session: Session, recipe: str, sets: tuple[str, ...], random: bool, parallel: bool, **more: Any
) -> int:
    """Find the first surgery that breaks a model, where, and why.

    RECIPE is a file, or the name of a shipped recipe (see `surgery recipes`). Its base is tried as
    it is, then with each surgery alone, then with growing prefixes of them: does the forward run,
    are outputs finite and what was promised, do contracts hold, do gradients come? The exit status
    is 0 where all surgeries together work, 1 where they do not.
    """
    given = read(session, recipe, sets, more)
    from surgery.flow.diagnose import diagnose_recipe
    from surgery.report.console import rendered
    from surgery.report.diagnose import diagnosis_json, diagnosis_table, verdict

    asked = inputs_of(more["inputs"], more["image_size"])
    found = diagnose_recipe(
        given, session.registry, asked, random=random, parallel=parallel,
        report=lambda trial: session.remark(f"{trial} ..."),
    )  # fmt: skip
    text = "" if session.json else rendered(diagnosis_table(found)) + "\n"
    text += "" if session.json else "\n".join(verdict(found))
    session.result(diagnosis_json(found), text, ok=found.ok, styled=True)
    if not found.ok:
        session.complain(next(verdict(found)))
    return 0 if found.ok else 1
