"""Digest files, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from surgery.checkpoint.strict import readable

Progress: TypeAlias = Callable[[int], object]
"""Called with each number of bytes that was hashed."""

_CHUNK = 1 << 20
_THREADS = 4


def digest_files(
    files: Mapping[str, Path], *, fast: bool = False, progress: Progress | None = None
) -> dict[str, dict[str, Any]]:
    """Give the size in bytes and the sha256 in hexadecimal of files.

    Args:
        files: the files, by the name under which each stands in the answer.
        fast: give sizes only; the key ``sha256`` is absent then.
        progress: called with each number of bytes that was hashed, from several threads.

    Returns:
        For each name, in the order given: ``{"size": n, "sha256": hex}``.

    Raises:
        IntegrityError: a file is missing or cannot be read.
    """
    if fast:
        return {name: {"size": _size(path)} for name, path in files.items()}
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        found = pool.map(partial(_digest, progress=progress), files.values())
        return dict(zip(files, found, strict=True))


def _size(path: Path) -> int:
    """Give the size of a file in bytes."""
    with readable(path):
        return path.stat().st_size


def _digest(path: Path, progress: Progress | None) -> dict[str, Any]:
    """Give the size and the sha256 of what one file holds."""
    sink, size, chunk = sha256(), 0, memoryview(bytearray(_CHUNK))
    with readable(path), open(path, "rb", buffering=0) as file:
        while count := file.readinto(chunk):
            sink.update(chunk[:count])
            size += count
            if progress:
                progress(count)
    return {"size": size, "sha256": sink.hexdigest()}
