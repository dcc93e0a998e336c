"""Remember the digests of files that lie unchanged, so that not every output hashes its base.

A file is the one that was hashed where its inode, size and time of modification are: the kernel
writes this time down at every write. Damage that no write made, and a write whose time somebody set
back, stay unseen here; `surgery verify` reads every byte.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from surgery.checkpoint.fetch import cache_folder

SETTLED = 60.0
"""Seconds without a write after which a file counts; a mapped file shows a write this late."""


class State(NamedTuple):
    """Tell one content of a file from another.

    Attributes:
        device: number of its file system.
        inode: its number there.
        size: in bytes.
        modified: time of the last write, in nanoseconds. Not that of the last change of the inode,
            which an output that is linked to the file makes.
    """

    device: int
    inode: int
    size: int
    modified: int


def state_of(path: Path) -> State:
    """Give the state of a file; a link is followed.

    Raises:
        OSError: there is none.
    """
    found = os.stat(path)
    return State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def is_settled(state: State) -> bool:
    """Tell whether the last write is so long ago that no other can hide behind its time."""
    return time.time() - state.modified / 1e9 >= SETTLED


def recall(state: State) -> str | None:
    """Give the sha256 that a file in this state was found to have, or None."""
    with suppress(OSError, ValueError, RuntimeError):
        *known, digest = _place(state).read_text("ascii").split()
        if tuple(map(int, known)) == state and len(bytes.fromhex(digest)) == 32:
            return digest
    return None


def remember(state: State, digest: str) -> None:
    """Remember a digest; where the disk refuses, nothing is.

    Args:
        state: of the file, settled before it was read and the same after.
        digest: its sha256 in hexadecimal.
    """
    with suppress(OSError, RuntimeError):
        place = _place(state)
        part = place.with_name(f".{place.name}.{uuid4().hex}")
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(" ".join(map(str, (*state, digest))), "ascii")
        os.replace(part, place)


def _place(state: State) -> Path:
    """Give the file that remembers an inode, in the user's cache."""
    return cache_folder() / "digests" / f"{state.device}-{state.inode}"
