"""Publish an output folder: complete under its final name, or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surgery.checkpoint.durable import flush, settle
from surgery.checkpoint.exchange import replace_folder
from surgery.checkpoint.lock import hold_lock, leftovers, working_name
from surgery.checkpoint.trouble import check_space, clear_errors
from surgery.errors import OutputError


@contextmanager
def publish(final: Path, *, force: bool = False, needed_bytes: int = 0) -> Iterator[Path]:
    """Give a hidden folder to write into, and publish it under its final name at the end.

    The folder stands beside the output. When the block ends well every file is flushed, the
    folder is renamed in one step and the parent is flushed; when it raises, the folder goes.
    Whatever the moment at which the process dies, the final name shows the old content or all
    of the new; the next run sweeps what is left over.

    Args:
        final: the folder to publish; its parent is made where it is missing.
        force: replace what stands there; it stays until the new content takes its place.
        needed_bytes: the size of the output in bytes, checked before any work; 0 if unknown.

    Yields:
        The hidden folder, empty.

    Raises:
        LockedError: another process is writing this output.
        OutputError: the output exists, or the disk is full, read-only or refuses.
    """
    final = Path(os.path.realpath(final))
    with clear_errors(final, needed_bytes):
        final.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(final):
            _sweep(final)
            check_target(final, force, needed_bytes)
            with _working_folder(final) as folder:
                yield folder
                settle(folder)
                _put(folder, final, force)


@contextmanager
def _working_folder(final: Path) -> Iterator[Path]:
    """Make the hidden folder, and remove what stands under its name at the end."""
    folder = working_name(final, "tmp")
    try:
        os.mkdir(folder)
        yield folder
    finally:
        _remove(folder)


def _put(folder: Path, final: Path, force: bool) -> None:
    """Move a finished folder to its final name, then remove what stood there."""
    if not (force and os.path.lexists(final)):
        os.rename(folder, final)
        flush(final.parent)
        return
    old = replace_folder(folder, final, working_name(final, "old"))
    flush(final.parent)
    _remove(old)


def check_target(final: Path, force: bool, needed_bytes: int = 0) -> None:
    """Refuse an output that stands already, or has no room.

    Args:
        final: where the output is to stand.
        force: whether an old one may be replaced.
        needed_bytes: its size.

    Raises:
        OutputError: it cannot be put there.
    """
    if os.path.lexists(final):
        _check_old(final, force)
    check_space(final, needed_bytes)


def _check_old(final: Path, force: bool) -> None:
    """Refuse to replace what the user did not mean to replace."""
    if not force:
        raise OutputError(
            str(final),
            "a path where nothing stands",
            "an existing file or folder",
            "choose another 'output.path', or give --force to replace it",
        )
    if any(here.is_relative_to(final) for here in (Path.cwd(), Path.home())) or final.is_mount():
        raise OutputError(
            str(final),
            "a folder that can be replaced",
            "your home, your working folder, one above them, or a mount point",
            "choose another 'output.path'",
        )


def _sweep(final: Path) -> None:
    """Remove what killed runs left behind, and put back what they had moved aside."""
    for old in leftovers(final, "old"):
        if not os.path.lexists(final):
            os.rename(old, final)
        else:
            _remove(old)
    for path in leftovers(final, "tmp"):
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, link or tree as far as the disk allows; the next run sweeps the rest."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink()
