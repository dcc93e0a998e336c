"""Tensors by name, wherever they lie, read in stretches and recognised without being read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.dtypes import CODES, size_of
from surgery.checkpoint.index import PICKLES, SINGLE, open_checkpoint
from surgery.checkpoint.manifest import MANIFEST, read_manifest
from surgery.checkpoint.pickles import read_pickle
from surgery.checkpoint.reading import File
from surgery.checkpoint.remote import RemoteFile
from surgery.checkpoint.tensors import TensorReader
from surgery.errors import IntegrityError, PatientError, SurgeryError

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.checkpoint.header import TensorEntry


@dataclass(frozen=True)
class Stored:
    """One tensor that can be read in stretches.

    Attributes:
        name: its name.
        dtype: its dtype by torch's name.
        shape: its shape.
        read: gives the elements from one number to another (excluded), flat.
        marks: what recognises its bytes; two tensors that share one have equal bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[int, int], Tensor]
    marks: frozenset[Hashable] = frozenset()

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.count * size_of(self.dtype)

    def surely_equals(self, other: Stored) -> bool:
        """Tell whether both are known to hold the same values without reading them."""
        same = (self.dtype, self.shape) == (other.dtype, other.shape)
        return same and not self.marks.isdisjoint(other.marks)


def stored_in(path: Path) -> dict[str, Stored]:
    """Give the tensors of a folder or of one file, safetensors or torch pickles, by name.

    Args:
        path: a folder as ``open_checkpoint`` takes it, or with ``pytorch_model*.bin``; a
            safetensors file; or a torch pickle of tensors by name.

    Raises:
        PatientError: there are no weights, or a pickle holds more than tensors by name.
        IntegrityError: a file is damaged, or two files hold a tensor of one name.
    """
    return stored_files(weight_files(path))


def weight_files(path: Path) -> list[Path]:
    """Find the weight files of a folder, or the one that a path names.

    Raises:
        PatientError: nothing of the kind is there.
        IntegrityError: a file is damaged.
    """
    if path.is_dir():
        pickles = sorted(path.glob("pytorch_model*.bin"))
        if pickles and not any(path.glob("*.safetensors*")):
            return pickles
    elif path.suffix in PICKLES and path.is_file():
        return [path]
    elif path.suffix != ".safetensors":
        found = "another file" if path.exists() else "nothing there"
        raise PatientError(str(path), f"a folder with weights, such as {SINGLE}, or a file", found)
    return list(open_checkpoint(path).values())


def stored_files(files: Iterable[File]) -> dict[str, Stored]:
    """Give the tensors of some weight files by name; only headers of safetensors are read.

    Raises:
        PatientError: a pickle holds more than tensors by name.
        IntegrityError: a file is damaged, or two files hold a tensor of one name.
    """
    found: dict[str, Stored] = {}
    for file in files:
        for one in _tensors_of(file):
            if one.name in found:
                where = f"{file}: tensor {one.name!r}"
                raise IntegrityError(where, "one tensor of this name", "two in different files")
            found[one.name] = one
    return found


def stored_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Stored]:
    """Give tensors in memory, on the CPU, as stored ones; nothing is copied."""
    return {
        name: Stored(
            name,
            str(tensor.dtype).removeprefix("torch."),
            tuple(tensor.shape),
            partial(_slice, tensor.detach()),
        )
        for name, tensor in tensors.items()
    }


def _slice(tensor: Tensor, start: int, stop: int) -> Tensor:
    return tensor.reshape(-1)[start:stop]


def _tensors_of(file: File) -> Iterator[Stored]:
    if isinstance(file, Path) and file.suffix != ".safetensors":
        return _pickled(file)
    return _safetensors(file)


def _safetensors(file: File) -> Iterator[Stored]:
    reader, marks = TensorReader(file), tuple(_marks_of(file))
    entries = reader.entries
    reader.entries = {name: _flat(entry) for name, entry in entries.items()}
    for name, entry in entries.items():
        place = (entry.begin, entry.end)
        own = frozenset((*mark, *place) for mark in marks)
        yield Stored(name, entry.dtype, entry.shape, partial(reader.rows, name), own)


def _flat(entry: TensorEntry) -> TensorEntry:
    return replace(entry, shape=(prod(entry.shape),))


def _marks_of(file: File) -> Iterator[tuple[Hashable, ...]]:
    """Recognise a file: by its place on the disk, and by the digest that a manifest has of it.

    A digest counts only where the manifest was written after the file and has its size: bytes
    that changed since then have no digest.
    """
    if isinstance(file, RemoteFile):
        yield from ((kind, mark) for kind, mark in _said(file) if mark)
        return
    state = file.stat()
    yield ("inode", state.st_dev, state.st_ino)
    manifest = file.parent / MANIFEST
    try:
        listed: Mapping[str, Any] = read_manifest(manifest)[file.name]
        if listed["size"] == state.st_size and state.st_mtime_ns <= manifest.stat().st_mtime_ns:
            yield ("sha256", listed["sha256"])
    except (SurgeryError, KeyError):
        return


def _said(file: RemoteFile) -> Iterator[tuple[str, str]]:
    yield "mark", file.mark
    yield "sha256", file.sha256


def _pickled(file: Path) -> Iterator[Stored]:
    import torch

    found = read_pickle(file)
    wanted, instead = "tensors by name", "give the state dict alone, as safetensors"
    if not isinstance(found, Mapping):
        raise PatientError(str(file), wanted, f"a {type(found).__name__}", instead)
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            held = f"a {type(value).__name__} under {name!a}"[:200]
            raise PatientError(str(file), wanted, held, instead)
        if str(value.dtype).removeprefix("torch.") not in CODES:
            raise PatientError(str(file), "dtypes that safetensors have", f"{value.dtype}")
    yield from stored_tensors(found).values()
