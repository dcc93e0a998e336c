"""Make written files durable, and give them the modes that the user's umask asks for."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def settle(folder: Path) -> None:
    """Flush every file and folder of a tree to the disk, with modes after the umask.

    A file with a second hard link keeps its mode, since the other name may be the base model's.

    Args:
        folder: a folder that :func:`os.mkdir` made, so that its own mode shows the umask.

    Raises:
        OSError: the disk refused.
    """
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            _settle_file(Path(root, name), mode)
        flush(Path(root))


def flush(path: Path) -> None:
    """Flush one file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _settle_file(path: Path, mode: int) -> None:
    """Set the mode of one file that is the tree's own, and flush it; leave links alone."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        return
    if found.st_nlink == 1:
        os.chmod(path, mode)
    flush(path)
