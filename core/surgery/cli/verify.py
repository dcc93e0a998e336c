"""``surgery verify``: is a folder what its manifest and journal say, and is it whole?"""

from __future__ import annotations

from pathlib import Path

import click

from surgery.checkpoint.urls import is_url
from surgery.cli.places import PLACE
from surgery.cli.session import Session, common

DAMAGED = 4


@click.command()
@click.argument("folder", metavar="DIR", type=PLACE)
@click.option("--base", type=PLACE, help="Where the base is now.")
@click.option("--fast", is_flag=True, help="Compare sizes and headers alone.")
@common
def verify(session: Session, folder: str | Path, base: str | Path | None, fast: bool) -> int:
    """Check an output: files, tensors, values and base.

    DIR is what `surgery apply` wrote. Of another folder, what can be checked is: headers, index
    and links, values, ties, vocabulary and contracts; the rest is listed as skipped. The exit
    status is 0 where nothing failed, 4 where something is damaged, 2 where there is no folder.
    """
    from surgery.checks.check import FAILED
    from surgery.cli.progress import bytes_counter
    from surgery.flow.verify import verify as check
    from surgery.flow.verify_size import bytes_to_hash
    from surgery.report.outcome import verdict_json, verdict_text

    total = None if is_url(folder) else bytes_to_hash(Path(folder))
    with bytes_counter(session, "digest", total) as advance:
        checks = check(folder, session.registry, base=base, fast=fast, progress=advance)
    bad = [one for one in checks if one.status == FAILED]
    session.result(verdict_json(checks), verdict_text(checks), ok=not bad)
    for one in bad:
        session.complain(f"{one.name}: {one.detail}")
    return DAMAGED if bad else 0
