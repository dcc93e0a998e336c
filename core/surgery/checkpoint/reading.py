"""Open files for reading, here or behind a URL."""

from __future__ import annotations

import os
from io import BufferedReader, FileIO, RawIOBase
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from surgery.checkpoint.remote import RemoteFile

File: TypeAlias = Path | RemoteFile
"""A file of this machine, or one behind a URL."""

_BUFFER = 1 << 16


def open_raw(file: File) -> RawIOBase:
    """Open a file without a buffer.

    Raises:
        OSError: it cannot be opened.
    """
    return file.open() if isinstance(file, RemoteFile) else FileIO(file)


def buffered(file: File) -> BinaryIO:
    """Open a file with a small buffer, for many short reads.

    Raises:
        OSError: it cannot be opened.
    """
    return cast("BinaryIO", BufferedReader(open_raw(file), _BUFFER))


def size_in_bytes(file: File) -> int:
    """Give the size of a file in bytes.

    Raises:
        OSError: it cannot be read.
    """
    return file.size if isinstance(file, RemoteFile) else os.stat(file).st_size
