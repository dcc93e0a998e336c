"""Write safetensors files, one tensor in memory at a time, always the same bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from io import FileIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from surgery.checkpoint.dtypes import CODES, size_of
from surgery.checkpoint.header import TensorEntry, check_name
from surgery.checkpoint.memory import memory_of
from surgery.checkpoint.ranges import copy_range
from surgery.checkpoint.remote import STRETCH, RemoteFile
from surgery.errors import IntegrityError

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 18

Producer: TypeAlias = "Callable[[], Tensor | Iterator[Tensor]]"
"""Gives a tensor, or consecutive pieces of it, in the order of its elements."""


class NewEntry(NamedTuple):
    """Name a tensor to write; a plain tuple of the four will do as well.

    Attributes:
        name: its name.
        dtype: the name of its torch dtype, such as ``bfloat16``.
        shape: its shape.
        produce: gives its values, once, when it is its turn, whole or as an iterator over
            consecutive pieces; or the stored tensor whose bytes are to be copied, in the kernel
            where it can.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    produce: Producer | TensorEntry


def write_tensors(
    path: Path,
    tensors: Iterable[tuple[str, str, tuple[int, ...], Producer | TensorEntry]],
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> str:
    """Write a new safetensors file, whatever the order in which the tensors are given.

    The wider dtypes come first, then names in order, so that every tensor is aligned and the
    same tensors give the same bytes.

    Args:
        path: the file; it must not exist.
        tensors: what to write.
        metadata: free text by name; ``format`` is always ``pt``.
        progress: called with the bytes of each tensor when it is written.

    Returns:
        The sha256 of the file in hexadecimal, taken of what is written and not read back.

    Raises:
        IntegrityError: a name is unfit or stands twice, a producer gave another shape or dtype
            than it said, or a file that is copied from has changed.
        OSError: the file exists, or the disk refuses.
    """
    ordered = sorted((NewEntry(*entry) for entry in tensors), key=_order)
    _check(path, ordered)
    with open(path, "xb", buffering=0) as raw:
        file = _Hashed(raw)
        file.put(memoryview(_header(ordered, {**(metadata or {}), "format": "pt"})))
        for entry in ordered:
            if isinstance(entry.produce, TensorEntry):
                _copy(path, file, entry, entry.produce)
            else:
                for piece in _pieces(path, entry, entry.produce):
                    file.put(memory_of(piece))
            progress(_bytes(entry))
        return file.digest.hexdigest()


class _Hashed:
    """Hash a file while it is written.

    Attributes:
        digest: the sha256 of what was written so far.
    """

    def __init__(self, file: FileIO) -> None:
        self._file, self.digest = file, sha256()

    def put(self, data: memoryview) -> None:
        """Write all of some bytes."""
        self.digest.update(data)
        while data:
            data = data[self._file.write(data) or 0 :]

    def take(self, source: FileIO, begin: int, end: int) -> int:
        """Copy a stretch of another file in the kernel, and give where it ended."""
        end = copy_range(source.fileno(), self._file.fileno(), begin, end)
        while begin < end and (data := os.pread(source.fileno(), min(_CHUNK, end - begin), begin)):
            self.digest.update(data)
            begin += len(data)
        return begin


def _copy(path: Path, file: _Hashed, entry: NewEntry, stored: TensorEntry) -> None:
    """Copy the bytes of a stored tensor."""
    where = f"{path}: tensor {entry.name!r}"
    if (entry.dtype, tuple(entry.shape)) != (stored.dtype, stored.shape):
        found = f"{stored.dtype} {stored.shape}"
        raise IntegrityError(where, f"{entry.dtype} {entry.shape}", found)
    if isinstance(stored.file, RemoteFile):
        _pass_on(stored.file, file, stored.begin, stored.end)
        return
    with open(stored.file, "rb", buffering=0) as old:
        end = file.take(old, stored.begin, stored.end)
    if end != stored.end:
        found = f"a file that now ends after {end}"
        raise IntegrityError(str(stored.file), f"{stored.end} bytes", found)


def _pass_on(source: RemoteFile, target: _Hashed, begin: int, end: int) -> None:
    """Copy a stretch of a file behind a URL, a part at a time."""
    for at in range(begin, end, STRETCH):
        target.put(memoryview(source.read(at, min(at + STRETCH, end))))


def _bytes(entry: NewEntry) -> int:
    """Give the size of a tensor in bytes."""
    return prod(entry.shape) * size_of(entry.dtype)


def _order(entry: NewEntry) -> tuple[int, str]:
    """Sort by width, the widest first, then by name."""
    return -size_of(entry.dtype), entry.name


def _check(path: Path, entries: list[NewEntry]) -> None:
    """Refuse names that a reader would refuse."""
    names: set[str] = set()
    for entry in entries:
        where = f"{path}: tensor {entry.name!r}"
        check_name(where, entry.name)
        if entry.name in names or entry.name == "__metadata__":
            raise IntegrityError(where, "a name that is free", "a name that is taken")
        names.add(entry.name)


def _header(entries: list[NewEntry], metadata: Mapping[str, str]) -> bytes:
    """Write length and JSON of a header, filled up with blanks to 8 bytes."""
    fields: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    begin = 0
    for entry in entries:
        end = begin + _bytes(entry)
        fields[entry.name] = {
            "dtype": CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(path: Path, entry: NewEntry, produce: Producer) -> Iterator[Tensor]:
    """Produce a tensor, whole or in pieces, and lay each out plainly on the CPU."""
    made, done = produce(), 0
    for piece in made if isinstance(made, Iterator) else (made,):
        whole = piece is made
        shape = tuple(piece.shape) if whole else tuple(entry.shape)
        _check_form(path, entry, piece, shape)
        done += piece.numel()
        yield piece.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if done != prod(entry.shape):
        where = f"{path}: tensor {entry.name!r}"
        raise IntegrityError(where, f"{prod(entry.shape)} elements", f"{done}")


def _check_form(path: Path, entry: NewEntry, piece: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse what has another form than was planned."""
    found = str(piece.dtype).removeprefix("torch."), shape
    if found != (entry.dtype, tuple(entry.shape)) or piece.device.type == "meta":
        where = f"{path}: tensor {entry.name!r}"
        wanted = f"{entry.dtype} {tuple(entry.shape)} with values"
        raise IntegrityError(where, wanted, f"{found[0]} {found[1]} on {piece.device}")
