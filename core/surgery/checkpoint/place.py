"""Put an unchanged file into an output without reading its bytes."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

_CLONE = 0x40049409
_CANNOT = {
    errno.EXDEV,
    errno.ENOSYS,
    errno.EINVAL,
    errno.ENOTTY,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EMLINK,
    errno.EBADF,
    errno.ETXTBSY,
}


def place_file(source: Path, target: Path) -> str:
    """Give a file a second name or copy: shared blocks, a hard link, or a copy by the kernel.

    A clone with shared blocks comes first, as a later change of one file leaves the other alone.

    Args:
        source: the file; a link is followed.
        target: the new name, which must be free.

    Returns:
        ``reflink``, ``hard link`` or ``copy``.

    Raises:
        OSError: the source cannot be read, or the target cannot be written.
    """
    source = Path(os.path.realpath(source))
    if _clone(source, target):
        return "reflink"
    if _link(source, target):
        return "hard link"
    with open(source, "rb") as old, open(target, "xb") as new:
        if not _copied(old.fileno(), new.fileno()):
            shutil.copyfileobj(old, new, 1 << 20)
    return "copy"


def _clone(source: Path, target: Path) -> bool:
    """Share the blocks of a file (``FICLONE``, as on btrfs and XFS); False where it cannot be."""
    if sys.platform != "linux":
        return False
    from fcntl import ioctl

    with open(source, "rb") as old, open(target, "xb") as new:
        try:
            ioctl(new.fileno(), _CLONE, old.fileno())
            return True
        except OSError as error:
            os.unlink(target)
            if error.errno not in _CANNOT:
                raise
    return False


def _link(source: Path, target: Path) -> bool:
    """Make a hard link; False where the file system or the system's rules have none."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def _copied(old: int, new: int) -> bool:
    """Copy one open file to another inside the kernel; False if it cannot, nothing copied."""
    copy = getattr(os, "copy_file_range", None)
    left = os.fstat(old).st_size
    try:
        while copy and left > 0:
            done = copy(old, new, left)
            if not done:
                break
            left -= done
    except OSError as error:
        if error.errno not in _CANNOT or os.fstat(new).st_size:
            raise
    return bool(copy) and left == 0
