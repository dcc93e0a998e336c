"""Read the header of a safetensors file, strictly: nothing is trusted, nothing is guessed.

The format: https://huggingface.co/docs/safetensors. A library that reads the file afterwards finds
only what passed here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from surgery.checkpoint.dtypes import CODES
from surgery.errors import IntegrityError

MAX_HEADER = 25_000_000
"""Bytes; a header of 100,000 tensors has about 10 million."""

_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,512}")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies.

    Attributes:
        name: its name.
        dtype: its dtype by torch's name.
        shape: its shape.
        begin: offset of its first byte in the file.
        end: offset after its last byte.
        file: the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    file: Path


@dataclass(frozen=True, slots=True)
class Header:
    """What a file holds.

    Attributes:
        entries: the tensors by name, in the order of the file.
        metadata: the file's own remarks.
    """

    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of a file.

    Raises:
        IntegrityError: the file is cut off, overlaps itself, has holes, names a tensor twice, or is
            no safetensors file at all.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                _bad(path, f"a header within the file's {size} bytes", f"one of {length} bytes")
            text = file.read(length)
    except OSError as error:
        _bad(path, "a file that can be read", error.strerror or str(error))
    return _parse(path, text, 8 + length, size)


def _parse(path: Path, text: bytes, start: int, size: int) -> Header:
    if not text.startswith(b"{"):
        _bad(path, "a header that begins with '{'", repr(text[:8]))
    try:
        data = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        _bad(path, "a header in JSON", str(error)[:200])
    if not isinstance(data, dict):
        _bad(path, "a header of names and tensors", type(data).__name__)
    metadata = data.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _bad(path, "metadata of texts", "something else")
    entries = {name: _entry(path, name, value, start) for name, value in data.items()}
    _check_cover(path, entries, start, size)
    return Header(entries, metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return found


def _entry(path: Path, name: str, value: Any, start: int) -> TensorEntry:
    where = f"{path}: {name!r}"
    if not _NAME.fullmatch(name) or ".." in re.split(r"[\\/]", name):
        _bad(where, "a tensor's name of 1 to 512 printable characters", "another")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        _bad(where, "dtype, shape and data_offsets", str(value)[:80])
    if not isinstance(value["dtype"], str) or value["dtype"] not in CODES:
        _bad(where, f"a dtype of {', '.join(CODES)}", str(value["dtype"])[:40])
    shape, offsets = value["shape"], value["data_offsets"]
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        _bad(where, "a shape and two offsets of whole numbers", f"{shape!r:.60} {offsets!r:.60}")
    dtype, item = CODES[value["dtype"]]
    begin, end = offsets
    if prod(shape) * item != end - begin:
        _bad(where, f"{prod(shape) * item} bytes for {dtype} {shape}", f"{end - begin}")
    return TensorEntry(name, dtype, tuple(shape), start + begin, start + end, Path(path))


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _check_cover(path: Path, entries: Mapping[str, TensorEntry], start: int, size: int) -> None:
    place = start
    for entry in sorted(entries.values(), key=lambda e: (e.begin, e.end)):
        if entry.begin != place:
            what = "overlap" if entry.begin < place else "leave a hole"
            _bad(f"{path}: {entry.name!r}", f"bytes from {place}", f"{entry.begin}: tensors {what}")
        place = entry.end
    if place != size:
        what = "it is cut off" if place > size else "bytes follow that belong to no tensor"
        _bad(path, f"a file of {place} bytes", f"{size}: {what}")


def _bad(where: object, wanted: str, found: str) -> NoReturn:
    raise IntegrityError(str(where), wanted, found, "get the file again")
