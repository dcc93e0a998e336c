"""Read tensors, or rows of them, from safetensors files."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.checkpoint.dtypes import size_of
from surgery.checkpoint.header import TensorEntry, read_header
from surgery.checkpoint.index import open_checkpoint
from surgery.checkpoint.memory import memory_of
from surgery.checkpoint.reading import File, open_raw
from surgery.checkpoint.remote import RemoteFile
from surgery.checkpoint.strict import readable, show_path
from surgery.errors import IntegrityError, PatientError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, dtype


class TensorReader:
    """Read tensors of safetensors files by name, each into memory of its own.

    Args:
        sources: files, or folders of which :func:`open_checkpoint` gives the files.

    Attributes:
        entries: the tensors of all files, by name.

    Raises:
        IntegrityError: a file is damaged, or two files hold a tensor of one name.
        PatientError: a folder holds no weights.
    """

    def __init__(self, *sources: File) -> None:
        self.entries: dict[str, TensorEntry] = {}
        for source in sources:
            for file in _files(source):
                self._add(file)

    def get(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            IntegrityError: no file holds it, or its bytes are damaged.
        """
        entry = self._entry(name)
        return read_tensor(entry)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read the rows ``start`` to ``stop`` (excluded) of axis 0 of one tensor.

        Raises:
            IntegrityError: no file holds it, or its bytes are damaged.
            IndexError: the tensor has no such rows.
        """
        entry = self._entry(name)
        if not entry.shape or not 0 <= start <= stop <= entry.shape[0]:
            raise IndexError(f"{name} of shape {entry.shape} has no rows {start} to {stop}")
        row = prod(entry.shape[1:]) * size_of(entry.dtype)
        return _read(entry, entry.begin + start * row, (stop - start, *entry.shape[1:]))

    def flat(self, name: str, start: int, stop: int) -> Tensor:
        """Read the elements ``start`` to ``stop`` (excluded) of one tensor, as one axis.

        Raises:
            IntegrityError: no file holds it, or its bytes are damaged.
            IndexError: the tensor has no such elements.
        """
        return read_stretch(self._entry(name), start, stop)

    def _add(self, file: File) -> None:
        """Take up the tensors of one file."""
        for name, entry in read_header(file).entries.items():
            if name in self.entries:
                both = f"one in {self.entries[name].file} and one in {file}"
                raise IntegrityError(f"{file}: tensor {name!r}", "one tensor of this name", both)
            self.entries[name] = entry

    def _entry(self, name: str) -> TensorEntry:
        """Find a tensor by name."""
        if name not in self.entries:
            files = ", ".join(sorted({str(entry.file) for entry in self.entries.values()}))
            hint = did_you_mean(name, self.entries)
            raise IntegrityError(files or "no file", f"a tensor {name!r}", "no such tensor", hint)
        return self.entries[name]


def _files(source: File) -> Iterable[File]:
    """Give the files of a folder, or the one that is given."""
    if isinstance(source, RemoteFile):
        return [source]
    source = Path(source)
    with readable(source):
        return open_checkpoint(source).values() if source.is_dir() else [source]


def read_tensor(entry: TensorEntry) -> Tensor:
    """Read a stored tensor into memory of its own.

    Raises:
        IntegrityError: its bytes are damaged, or the file has changed.
    """
    return _read(entry, entry.begin, entry.shape)


def read_stretch(entry: TensorEntry, start: int, stop: int) -> Tensor:
    """Read the elements ``start`` to ``stop`` (excluded) of a stored tensor, as one axis.

    Raises:
        IntegrityError: its bytes are damaged, or the file has changed.
        IndexError: the tensor has no such elements.
    """
    if not 0 <= start <= stop <= prod(entry.shape):
        raise IndexError(f"{entry.name} of shape {entry.shape} has no elements {start} to {stop}")
    return _read(entry, entry.begin + start * size_of(entry.dtype), (stop - start,))


def _read(entry: TensorEntry, begin: int, shape: tuple[int, ...]) -> Tensor:
    """Read a stretch of a file as a tensor."""
    import torch

    tensor = torch.empty(shape, dtype=_dtype(entry))
    _fill(entry, begin, memory_of(tensor))
    if tensor.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
        raise IntegrityError(
            f"{entry.file}: tensor {entry.name!r}", "bytes 0 and 1 for bool", "others"
        )
    return tensor


def _fill(entry: TensorEntry, begin: int, memory: memoryview) -> None:
    """Read bytes of a file from an offset on, until the memory is full."""
    done = 0
    with readable(str(entry.file)), open_raw(entry.file) as file:
        file.seek(begin)
        while done < len(memory):
            count = file.readinto(memory[done:])  # type: ignore[attr-defined]
            if not count:
                found = f"a file that now ends after {begin + done}"
                wanted = f"{begin + len(memory)} bytes"
                raise IntegrityError(show_path(str(entry.file)), wanted, found)
            done += count


def _dtype(entry: TensorEntry) -> dtype:
    """Give the torch dtype of a stored tensor."""
    import torch

    found = getattr(torch, entry.dtype, None)
    if not isinstance(found, torch.dtype):
        where = f"{entry.file}: tensor {entry.name!r}"
        raise PatientError(
            where, "a dtype of the installed torch", entry.dtype, "install a newer torch"
        )
    return found
