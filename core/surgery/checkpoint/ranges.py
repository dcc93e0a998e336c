"""Copy a stretch of one open file to another, inside the kernel where it can."""

from __future__ import annotations

import errno
import os

CANNOT = {
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
"""The errors by which a system says that a way of copying is none of its own."""

_STEP = 1 << 30
_CHUNK = 1 << 18


def copy_range(source: int, target: int, begin: int, end: int) -> int:
    """Copy bytes ``begin`` to ``end`` of one file to where another stands, and move it on.

    The kernel copies (``copy_file_range``, then ``sendfile``); where it cannot, small pieces
    pass through memory.

    Args:
        source: the descriptor to read; its own position stays.
        target: the descriptor to write.
        begin: the first byte.
        end: the byte behind the last one.

    Returns:
        The offset that was reached; less than ``end`` where the source ends before.

    Raises:
        OSError: a file cannot be read or written.
    """
    for copy in (_by_range, _by_sendfile):
        try:
            while begin < end and (count := copy(source, target, begin, min(end - begin, _STEP))):
                begin += count
        except OSError as error:
            if error.errno not in CANNOT:
                raise
    while begin < end and (count := _by_hand(source, target, begin, min(end - begin, _CHUNK))):
        begin += count
    return begin


def _by_range(source: int, target: int, begin: int, count: int) -> int:
    """Copy once by ``copy_file_range``; 0 where this system has none."""
    copy = getattr(os, "copy_file_range", None)
    return copy(source, target, count, begin) if copy else 0


def _by_sendfile(source: int, target: int, begin: int, count: int) -> int:
    """Copy once by ``sendfile``; 0 where this system has none."""
    copy = getattr(os, "sendfile", None)
    return copy(target, source, begin, count) if copy else 0


def _by_hand(source: int, target: int, begin: int, count: int) -> int:
    """Copy once through memory."""
    data = memoryview(os.pread(source, count, begin))
    done = 0
    while done < len(data):
        done += os.write(target, data[done:])
    return done
