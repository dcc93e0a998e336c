"""Write safetensors files, one tensor in memory at a time, always the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from surgery.checkpoint.dtypes import CODES, size_of
from surgery.checkpoint.header import check_name
from surgery.checkpoint.memory import memory_of
from surgery.checkpoint.place import place_file
from surgery.errors import IntegrityError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NewEntry", "place_file", "write_tensors"]


class NewEntry(NamedTuple):
    """Name a tensor to write; a plain tuple of the four will do as well.

    Attributes:
        name: its name.
        dtype: the name of its torch dtype, such as ``bfloat16``.
        shape: its shape.
        produce: gives its values, once, when it is its turn.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    produce: Callable[[], Tensor]


def write_tensors(
    path: Path,
    tensors: Iterable[tuple[str, str, tuple[int, ...], Callable[[], Tensor]]],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write a new safetensors file, whatever the order in which the tensors are given.

    The wider dtypes come first, then names in order, so that every tensor is aligned and the
    same tensors give the same bytes.

    Args:
        path: the file; it must not exist.
        tensors: what to write.
        metadata: free text by name; ``format`` is always ``pt``.

    Returns:
        The sha256 of the file, in hexadecimal.

    Raises:
        IntegrityError: a name is unfit or stands twice, or a producer gave another shape or
            dtype than it said.
        OSError: the file exists, or the disk refuses.
    """
    ordered = sorted((NewEntry(*entry) for entry in tensors), key=_order)
    _check(path, ordered)
    header, sink = _header(ordered, {**(metadata or {}), "format": "pt"}), sha256()
    with open(path, "xb", buffering=0) as file:

        def put(data: memoryview) -> None:
            sink.update(data)
            while data:
                data = data[file.write(data) or 0 :]

        put(memoryview(header))
        for entry in ordered:
            tensor = _plain(path, entry)
            put(memory_of(tensor))
    return sink.hexdigest()


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
        end = begin + prod(entry.shape) * size_of(entry.dtype)
        fields[entry.name] = {
            "dtype": CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _plain(path: Path, entry: NewEntry) -> Tensor:
    """Produce a tensor, and lay it out plainly on the CPU."""
    tensor = entry.produce().detach()
    found = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    if found != (entry.dtype, tuple(entry.shape)) or tensor.device.type == "meta":
        where = f"{path}: tensor {entry.name!r}"
        wanted = f"{entry.dtype} {tuple(entry.shape)} with values"
        raise IntegrityError(where, wanted, f"{found[0]} {found[1]} on {tensor.device}")
    return tensor.cpu().resolve_conj().resolve_neg().contiguous()
