"""Put an unchanged file into an output without reading its bytes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal, TypeAlias

from surgery.checkpoint.ranges import CANNOT, copy_range
from surgery.checkpoint.reading import File
from surgery.checkpoint.remote import RemoteFile

Way: TypeAlias = Literal["auto", "copy"]
"""``auto`` shares what the file system can share; ``copy`` makes a file of its own."""

_CLONE = 0x40049409


def place_file(source: File, target: Path, way: Way = "auto") -> str:
    """Give a file a second name or copy: shared blocks, a hard link, or a copy by the kernel.

    A clone with shared blocks comes first, as a later change of one file leaves the other alone.

    Args:
        source: the file; a link is followed. One behind a URL is fetched.
        target: the new name, which must be free.
        way: ``copy`` for a file that shares no name with the source, for whoever writes into
            files in place.

    Returns:
        ``reflink``, ``hard link``, ``copy`` or ``fetched``.

    Raises:
        OSError: the source cannot be read, or the target cannot be written.
        PatientError: the server fails.
    """
    if isinstance(source, RemoteFile):
        source.fetch(target)
        return "fetched"
    source = Path(os.path.realpath(source))
    if _clone(source, target):
        return "reflink"
    if way == "auto" and _link(source, target):
        return "hard link"
    with open(source, "rb") as old, open(target, "xb") as new:
        size = os.fstat(old.fileno()).st_size
        copy_range(old.fileno(), new.fileno(), 0, size)
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
            if error.errno not in CANNOT:
                raise
    return False


def _link(source: Path, target: Path) -> bool:
    """Make a hard link; False where the file system or the system's rules have none."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
        return False
    return True
