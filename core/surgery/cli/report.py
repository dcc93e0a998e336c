"""``surgery report``: one page of HTML that tells what was done to a model."""

from __future__ import annotations

from pathlib import Path

import click

from surgery.cli.places import PLACE
from surgery.cli.session import Session, common


@click.command()
@click.argument("folder", metavar="RUN|OUT", type=PLACE)
@click.option(
    "--into", metavar="FILE.html", type=click.Path(path_type=Path),
    help="Where to write; FOLDER-report.html beside the folder if left out.",
)  # fmt: skip
@click.option("--base", metavar="DIR", type=PLACE, help="Where the base is now, if it moved.")
@click.option("--fast", is_flag=True, help="Prove by sizes and headers, not by every byte.")
@click.option("--force", is_flag=True, help="Replace a file that is no such page.")
@click.option(
    "--trust-remote-code", is_flag=True,
    help="Consent to run the code that comes with a model, where the recipe asks for it.",
)  # fmt: skip
@common
def report(
    session: Session,
    folder: str | Path,
    into: Path | None,
    base: str | Path | None,
    fast: bool,
    force: bool,
    trust_remote_code: bool,
) -> None:
    """Write a page of HTML on what was done to a model.

    RUN is the folder of a training, OUT what `surgery apply` or `surgery train` wrote. The page
    is one file, opens from disk, asks no network and runs no script.
    """
    from surgery.cli.progress import bytes_counter
    from surgery.operate.trust import CONSENT
    from surgery.report.html.page import page_html, write_page
    from surgery.report.html.story import story_of

    CONSENT.set(trust_remote_code)
    name = Path(str(folder)).resolve().name
    target = into or Path(str(folder)).resolve().with_name(f"{name}-report.html")
    with bytes_counter(session, "digest") as advance:
        story = story_of(folder, session.registry, base=base, fast=fast, progress=advance)
    write_page(page_html(story), target, force=force)
    for note in story.notes:
        session.remark(f"note: {note}")
    session.result({"file": str(target), "notes": list(story.notes)}, str(target))
