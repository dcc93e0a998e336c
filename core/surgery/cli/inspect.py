"""``surgery inspect``: what a model is made of, and what each part does."""

from __future__ import annotations

from pathlib import Path

import click

from surgery.cli.completion import models
from surgery.cli.completion import roles as complete_roles
from surgery.cli.session import Session, common


@click.command()
@click.argument("model", metavar="MODEL", shell_complete=models)
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="ROLE",
    shell_complete=complete_roles,
    help="Show only what has this role, such as attention.q; repeatable.",
)
@click.option(
    "--layers",
    multiple=True,
    metavar="LAYERS",
    help="Show only these layers, such as 3, -1 or 0-11/2; repeatable.",
)
@click.option("--depth", type=click.IntRange(min=0), help="Show this many levels of the tree.")
@click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Consent to run the code that comes with a model, where the recipe asks for it.",
)
@common
def inspect(
    session: Session,
    model: str,
    roles: tuple[str, ...],
    layers: tuple[str, ...],
    depth: int | None,
    trust_remote_code: bool,
) -> None:
    """Show what a model is made of and what each part does.

    MODEL is a folder with a model or one that `surgery apply` wrote, SOURCE:NAME such as
    demo:minilm, a recipe file, or the name of a shipped recipe (see `surgery recipes`); of a
    recipe it is the model before the surgeries.
    """
    from surgery.anatomy.extended import extension_counts
    from surgery.anatomy.select import select
    from surgery.anatomy.selector import Selector
    from surgery.anatomy.site import Anatomy
    from surgery.anatomy.walk import walk
    from surgery.flow.structure import build_structure
    from surgery.operate.trust import CONSENT
    from surgery.report.console import rendered
    from surgery.report.shares import shares_of
    from surgery.report.stored import stored_note
    from surgery.report.tree import anatomy_json, anatomy_tree

    CONSENT.set(trust_remote_code)
    patient = build_structure(model, session.registry)
    found = walk(patient.model, patient.inputs, families=session.registry.families())
    wanted = Selector(role=roles, layers=layers)
    kept = select(found, wanted, where="inspect") if roles or layers else found
    added = extension_counts(patient.model).items()
    stored = stored_note(Path(model).expanduser())
    notes = (
        *((stored,) if stored else ()),
        *patient.notes,
        *found.notes,
        *(f"{name} extends {count} modules" for name, count in added),
    )
    found = Anatomy(tuple(kept), notes, found.traced, found.trainable)
    shares = shares_of(patient.model)
    text = "" if session.json else rendered(anatomy_tree(found, depth, shares))
    session.result(anatomy_json(found, shares), text, styled=True)
