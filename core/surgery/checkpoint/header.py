"""Read the header of a safetensors file, strictly, before anybody trusts its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from surgery.checkpoint.dtypes import KINDS, size_of
from surgery.checkpoint.reading import File, buffered, size_in_bytes
from surgery.checkpoint.remote import RemoteFile
from surgery.checkpoint.strict import parse_json, readable, refuse, show

MAX_HEADER = 25_000_000
MAX_NAME = 512
MAX_TENSORS = 200_000
MAX_RANK = 64
_TOO_MANY = 2**60
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class TensorEntry:
    """Say where the bytes of one stored tensor lie.

    Attributes:
        name: the tensor's name.
        dtype: the name of its torch dtype, such as ``bfloat16``.
        shape: its shape.
        begin: the offset of its first byte from the start of the file.
        end: the offset behind its last byte.
        file: the file that holds it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    file: File


@dataclass(frozen=True)
class Header:
    """Hold what the header of a safetensors file says.

    Attributes:
        entries: the tensors by name, in the order of the header.
        metadata: the free text of the file.
    """

    entries: dict[str, TensorEntry]
    metadata: dict[str, str]


def read_header(path: File) -> Header:
    """Read and check the header of one safetensors file; no tensor is read.

    Stricter than the format's own reader: a duplicate name, an unknown field, bytes that belong
    to no tensor or to two, and a name that could pass for a path or a terminal command are
    refused. Source of the format: https://github.com/huggingface/safetensors#format.

    Raises:
        IntegrityError: the file cannot be read, or is not what its header says.
    """
    path = path if isinstance(path, RemoteFile) else Path(path)
    with readable(str(path)):
        if isinstance(path, Path) and path.exists() and not path.is_file():
            refuse(path, "a plain file", "something else")
        with buffered(path) as file:
            size = size_in_bytes(path)
            length = _read_length(path, file, size)
            text = file.read(length)
    fields = _parse(path, text)
    if len(fields) > MAX_TENSORS:
        refuse(path, f"at most {MAX_TENSORS} tensors", f"{len(fields)}")
    metadata = _metadata(path, fields.pop(_METADATA, {}))
    entries = {name: _entry(path, name, value, 8 + length) for name, value in fields.items()}
    _check_cover(path, list(entries.values()), 8 + length, size)
    return Header(entries, metadata)


def _read_length(path: File, file: BinaryIO, size: int) -> int:
    """Read the length of the header in bytes, and check it against the size of the file."""
    if size < 10:
        refuse(path, "a safetensors file of 10 bytes or more", f"{size} bytes")
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        refuse(path, f"a header of at most {MAX_HEADER} bytes", f"{length} bytes")
    if 8 + length > size:
        refuse(path, f"a header of {length} bytes", f"a file that ends after {size - 8} of them")
    return length


def _parse(path: File, text: bytes) -> dict[str, Any]:
    """Parse the JSON of a header; a name that stands twice is refused."""
    if text[:1] != b"{":
        refuse(path, "a header that starts with '{'", show(text[:8].decode("latin-1")))
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        refuse(path, "a header in JSON", show(error))
    fields = parse_json(decoded, path)
    assert isinstance(fields, dict)  # the text starts with a brace
    return fields


def _metadata(path: File, value: Any) -> dict[str, str]:
    """Check that the metadata are text by text."""
    if not isinstance(value, dict) or not all(map(_is_text, (*value, *value.values()))):
        refuse(path, "metadata of text by text", show(value))
    return dict(value)


def _is_text(value: Any) -> bool:
    """Tell whether a value is text that other programs can read too."""
    return isinstance(value, str) and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _entry(path: File, name: str, value: Any, start: int) -> TensorEntry:
    """Check the fields of one tensor, and place it in the file."""
    where = f"{path}: tensor {show(name)}"
    check_name(where, name)
    if not isinstance(value, dict) or set(value) != _FIELDS:
        refuse(where, "exactly dtype, shape and data_offsets", show(value))
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(kind) is not str or kind not in KINDS:
        refuse(where, f"a dtype out of {', '.join(KINDS)}", show(kind))
    if not _counts(shape) or len(shape) > MAX_RANK:
        refuse(where, f"a shape of at most {MAX_RANK} non-negative integers", show(shape))
    if not _counts(offsets) or len(offsets) != 2:
        refuse(where, "two non-negative offsets", show(offsets))
    if prod(n for n in shape if n) >= _TOO_MANY:
        refuse(where, "a shape that memory has addresses for", show(shape))
    begin, end = offsets
    size = prod(shape) * size_of(KINDS[kind])
    if size != end - begin:
        refuse(where, f"{size} bytes for {kind} {shape}", f"{end - begin}, from {begin} to {end}")
    return TensorEntry(name, KINDS[kind], tuple(shape), start + begin, start + end, path)


def check_name(where: str, name: str) -> None:
    """Refuse the name of a tensor that is empty, too long, unprintable, or climbs like a path.

    Raises:
        IntegrityError: the name is none of those that a file may hold.
    """
    climbs = ".." in name.replace("\\", "/").split("/")
    if not name or len(name) > MAX_NAME or not name.isprintable() or climbs:
        wanted = f"a printable name of 1 to {MAX_NAME} characters without '..' parts"
        refuse(where, wanted, f"{len(name)} characters: {show(name)}")


def _counts(value: Any) -> bool:
    """Tell whether a value is a list of non-negative 63-bit integers."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _check_cover(path: File, entries: list[TensorEntry], start: int, size: int) -> None:
    """Demand that the tensors cover the file to its end, without holes and overlaps."""
    edges = [(start, start), *sorted((e.begin, e.end) for e in entries), (size, size)]
    for (_, before), (after, _) in pairwise(edges):
        if before != after:
            what = "a hole" if before < after else "an overlap or a cut"
            refuse(path, f"tensor data at byte {before}", f"{what}: the next part is at {after}")
