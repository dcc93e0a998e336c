"""A bar on stderr for long work; nothing where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from surgery.cli.session import Session


@contextmanager
def bytes_bar(session: Session, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how much of some bytes is done, on a terminal and unless quiet.

    Args:
        session: the command's options.
        what: what is being done, a verb.

    Yields:
        A function that takes bytes done and bytes in all.
    """
    if session.quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
