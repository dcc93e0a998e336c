"""Say in one clear error why an output cannot be written."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surgery.errors import OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_SPARE = 1.05
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@contextmanager
def clear_errors(final: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turn the errors of a full, read-only or failing disk into one OutputError.

    Args:
        final: the output that is being written; denied paths outside its parent pass unchanged.
        needed_bytes: what the output needs in all, named when the disk is full; 0 if unknown.

    Raises:
        OutputError: instead of an OSError that tells of the disk of the output.
    """
    try:
        yield
    except OSError as error:
        known = _explain(error, final, needed_bytes)
        if known is None:
            raise
        raise known from error


def check_space(final: Path, needed_bytes: int) -> None:
    """Refuse an output that does not fit, with 5 % to spare, on its file system.

    Raises:
        OutputError: ``disk full: needs X, has Y``.
    """
    wanted = int(needed_bytes * _SPARE)
    if wanted > shutil.disk_usage(_standing(final)).free:
        raise _full(final, wanted)


def _standing(path: Path) -> Path:
    """Give the nearest folder above a path that exists."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def in_units(count: int) -> str:
    """Write a number of bytes with a binary unit, such as ``1.5 GiB``."""
    size, unit = float(count), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{count} B"


def _explain(error: OSError, final: Path, needed_bytes: int) -> OutputError | None:
    """Give the error of the output that an OSError stands for, if it stands for one."""
    if error.errno in _FULL:
        return _full(final, int(needed_bytes * _SPARE))
    if error.errno == errno.EROFS:
        return _refused(final, "a file system that can be written", "a read-only one")
    if error.errno in _DENIED and _concerns(error, final):
        return _refused(final, "a folder that you may write to", f"'{error.strerror}'")
    if error.errno in _TAKEN and _concerns(error, final):
        return _refused(final, "a path where nothing stands", "something made in the meantime")
    if error.errno == errno.EIO:
        return _refused(final, "a disk that works", f"'{error.strerror}'")
    return None


def _concerns(error: OSError, final: Path) -> bool:
    """Tell whether the path of an error, if it names one, lies beside or in the output."""
    return error.filename is None or Path(str(error.filename)).is_relative_to(final.parent)


def _refused(final: Path, wanted: str, found: str) -> OutputError:
    """Give the error of an output that may not be written here."""
    return OutputError(str(final), wanted, found, "choose another 'output.path'")


def _full(final: Path, wanted: int) -> OutputError:
    """Give the error of a full disk, with what is needed where that is known."""
    has = in_units(shutil.disk_usage(_standing(final)).free)
    needs = in_units(wanted) if wanted else "more"
    return OutputError(
        str(final),
        "room on the disk",
        f"disk full: needs {needs}, has {has}",
        "free some space or choose another 'output.path'",
    )
