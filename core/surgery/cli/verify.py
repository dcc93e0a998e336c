"""``surgery verify``: is an output what its manifest and journal say?"""

from __future__ import annotations

from pathlib import Path

import click

from surgery.cli.session import Session, common

DAMAGED = 4


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--base", type=click.Path(path_type=Path), help="Where the base is now.")
@click.option("--fast", is_flag=True, help="Compare sizes and headers, not every byte.")
@common
def verify(session: Session, folder: Path, base: Path | None, fast: bool) -> int:
    """Check an output: files, tensors, values and base.

    DIR is what `surgery apply` wrote. The exit status is 4 where something is damaged.
    """
    from surgery.checks.check import FAILED
    from surgery.flow.verify import verify as check
    from surgery.report.outcome import check_lines

    checks = check(folder, session.registry, base=base, fast=fast)
    bad = [one for one in checks if one.status == FAILED]
    data = {"checks": [one.to_json() for one in checks]}
    session.result(data, "\n".join(check_lines(checks)), ok=not bad)
    for one in bad:
        session.complain(f"{one.name}: {one.detail}")
    return DAMAGED if bad else 0
