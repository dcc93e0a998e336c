"""Put a finished folder in the place of another, in one step where the system can."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def replace_folder(new: Path, final: Path, spare: Path) -> Path:
    """Put ``new`` at ``final``, where something stands already.

    Args:
        new: the finished folder, in the same parent as ``final``.
        final: what is replaced.
        spare: a free name in the same parent, used where two names cannot be exchanged at once.

    Returns:
        Where the old content stands now: ``new`` after an exchange, otherwise ``spare``.

    Raises:
        OSError: nothing was replaced; the old content stands at ``final`` again.
    """
    if exchange(new, final):
        return new
    os.rename(final, spare)
    try:
        os.rename(new, final)
    except BaseException:
        os.rename(spare, final)
        raise
    return spare


def exchange(left: Path, right: Path) -> bool:
    """Exchange two names in one step by ``renameat2`` (Linux 3.15 and later).

    Returns:
        False where the system or the file system has no such call; nothing has changed then.

    Raises:
        OSError: the system has the call and it failed.
    """
    call = getattr(_libc(), "renameat2", None)
    if call is None:
        return False
    paths = os.fsencode(left), os.fsencode(right)
    if call(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(left), None, str(right))


def _libc() -> ctypes.CDLL | None:
    """Open the C library of this process; None where there is none, as on Windows."""
    with contextlib.suppress(OSError, TypeError):
        return ctypes.CDLL(None, use_errno=True)
    return None
