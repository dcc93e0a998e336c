"""Bars on stderr for long work: rate, size and time left; nothing where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from surgery.cli.session import Session

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

Show = Callable[[int, "int | None"], None]
"""Takes what is done and what there is to do in all, None where that is not known."""


def watched(session: Session) -> bool:
    """Tell whether bars are shown: on a terminal, and unless quiet."""
    return not session.quiet and sys.stderr.isatty()


@contextmanager
def bytes_bar(session: Session, what: str) -> Iterator[Show]:
    """Show how much of some bytes is done.

    Args:
        session: the command's options.
        what: what is being done, a verb.

    Yields:
        A function that takes bytes done and bytes in all.
    """
    if not watched(session):
        yield lambda done, total: None
        return
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with _bar(what, (DownloadColumn(), TransferSpeedColumn())) as update:
        yield lambda done, total: update(completed=done, total=total)


@contextmanager
def bytes_counter(
    session: Session, what: str, total: int | None = None
) -> Iterator[Callable[[int], None]]:
    """Show how much of some bytes is done, counted up by several threads.

    Args:
        session: the command's options.
        what: what is being done, a verb.
        total: bytes in all, None where that is not known.

    Yields:
        A function that takes each number of bytes that was done.
    """
    lock, done = Lock(), 0
    with bytes_bar(session, what) as show:

        def advance(count: int) -> None:
            nonlocal done
            with lock:
                done += count
                show(done, total)

        yield advance


@contextmanager
def steps_bar(session: Session, what: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """Show how many steps are done, how fast, and what they gave.

    Args:
        session: the command's options.
        what: what is being done, a verb.

    Yields:
        A function that takes steps done, steps in all (None where unknown), and a text.
    """
    if not watched(session):
        yield lambda done, total, text: None
        return
    from rich.progress import MofNCompleteColumn, TextColumn

    columns = (MofNCompleteColumn(), TextColumn("{task.fields[rate]}{task.fields[said]}"))
    with _bar(what, columns, rate="", said="") as update:
        yield lambda done, total, text: update(
            completed=done, total=total, said=text, rate=_rate(update)
        )


class _Update:
    """Move a bar, and know how fast it moves."""

    def __init__(self, bar: Any, task: Any) -> None:
        self.bar, self.task = bar, task

    def __call__(self, **values: Any) -> None:
        """Move it."""
        self.bar.update(self.task, **values)

    @property
    def speed(self) -> float | None:
        """Units in a second, None where nothing is known yet."""
        found = self.bar.tasks[0].speed
        return None if found is None else float(found)


def _rate(update: _Update) -> str:
    return f"{update.speed:.2f}/s " if update.speed else ""


@contextmanager
def _bar(what: str, columns: Sequence[ProgressColumn], **values: Any) -> Iterator[_Update]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    shown = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
    with Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        yield _Update(bar, bar.add_task(what, total=None, **values))
