"""``surgery import``: take over what another tool made of a model."""

from __future__ import annotations

from pathlib import Path

import click

from surgery.cli.session import Session, common


@click.command("import")
@click.argument("format_", metavar="FORMAT")
@click.argument(
    "folders", metavar="FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--base",
    required=True,
    metavar="MODEL",
    help="What it was made of: a folder with a model, or SOURCE:NAME.",
)
@click.option("--output", required=True, metavar="DIR", help="Where to write.")
@click.option("--force", is_flag=True, help="Replace an existing output, by one rename.")
@common
def import_(
    session: Session,
    format_: str,
    folders: tuple[Path, ...],
    base: str,
    output: str,
    force: bool,
) -> None:
    """Take over what another tool made of a model, as a checkpoint.

    FORMAT is the name of an importer (see `surgery plugins`); FOLDER is what that tool wrote.
    Every tensor must land, or nothing is written.
    """
    from surgery.flow.intake import import_onto
    from surgery.flow.structure import source_given
    from surgery.report.outcome import outcome_json, outcome_text

    known = session.registry
    importer, source = known.importer(format_), source_given(base, known)
    target = Path(output).resolve()
    outcome = import_onto(source, importer, folders, target, known, force=force)
    session.result(outcome_json(outcome), "" if session.json else outcome_text(outcome))
