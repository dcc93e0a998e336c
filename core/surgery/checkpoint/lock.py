"""Let one process at a time write an output."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surgery.errors import LockedError


def working_name(final: Path, kind: str) -> Path:
    """Name a hidden folder beside an output that shows which process owns it.

    Args:
        final: the output.
        kind: ``tmp`` for what is being written, ``old`` for what is being replaced.
    """
    return final.parent / f".{final.name}.{kind}-{os.getpid()}"


def leftovers(final: Path, kind: str) -> list[Path]:
    """List the hidden folders of one kind beside an output, the oldest first."""
    shape = re.compile(re.escape(f".{final.name}.{kind}-") + r"\d+")
    found = [path for path in final.parent.iterdir() if shape.fullmatch(path.name)]
    return sorted(found, key=_age)


@contextmanager
def hold_lock(final: Path) -> Iterator[None]:
    """Hold the lock of an output; the system frees it when the process ends in any way.

    The lock is the file ``.NAME.lock`` beside the output. It stays there, since removing a lock
    file would let two processes hold two files of one name.

    Raises:
        LockedError: another process, or another thread of this one, holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(final.parent / f".{final.name}.lock", timeout=0, mode=0o666)
    try:
        lock.acquire()
    except Timeout:
        raise _locked(final) from None
    try:
        yield
    finally:
        lock.release()


def _locked(final: Path) -> LockedError:
    """Give the error of an output that another writer holds."""
    working = leftovers(final, "tmp")
    owner = f"pid {working[-1].name.rpartition('-')[2]}" if working else "another process"
    return LockedError(
        str(final),
        "an output that nobody writes",
        f"one that is being written by {owner}",
        "wait for it to end, or choose another 'output.path'",
    )


def _age(path: Path) -> int:
    """Give the time of a folder's last change in nanoseconds; 0 if it has just gone."""
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0
