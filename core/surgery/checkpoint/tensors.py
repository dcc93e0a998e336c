"""Read tensors, or rows of them, from safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.checkpoint.dtypes import size_of
from surgery.checkpoint.header import TensorEntry, read_header

if TYPE_CHECKING:
    from torch import Tensor


class TensorReader:
    """Read tensors of some files by name.

    Attributes:
        entries: the tensors of all files.
    """

    def __init__(self, *files: Path) -> None:
        self.entries: Mapping[str, TensorEntry] = {
            name: entry for file in files for name, entry in read_header(Path(file)).entries.items()
        }

    def get(self, name: str) -> Tensor:
        """Read one tensor into memory of its own."""
        entry = self.entries[name]
        return self._read(entry, entry.begin, entry.shape)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read some rows of axis 0 of one tensor."""
        entry = self.entries[name]
        row = prod(entry.shape[1:]) * size_of(entry.dtype)
        shape = (stop - start, *entry.shape[1:])
        return self._read(entry, entry.begin + start * row, shape)

    def _read(self, entry: TensorEntry, begin: int, shape: tuple[int, ...]) -> Tensor:
        import torch

        dtype = getattr(torch, entry.dtype)
        count = prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        buffer = bytearray(count * size_of(entry.dtype))
        with entry.file.open("rb") as file:
            file.seek(begin)
            done = file.readinto(buffer)
        if done != len(buffer):
            raise OSError(f"{entry.file} was cut off while it was read")
        return torch.frombuffer(buffer, dtype=dtype).reshape(shape)
