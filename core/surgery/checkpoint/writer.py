"""Write safetensors files, one tensor in memory at a time, always the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.checkpoint.dtypes import NAMES, size_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A tensor to write.

    Attributes:
        name: its name.
        dtype: its dtype by torch's name.
        shape: its shape.
        produce: gives its values, once, when it is its turn.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    produce: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * size_of(self.dtype)


def write_tensors(
    path: Path, tensors: Iterable[NewEntry], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file.

    Args:
        path: the file; it must not exist.
        tensors: what to write; sorted by name, so that the same tensors give the same bytes.
        metadata: remarks; ``format`` is always ``pt``.

    Raises:
        ValueError: a producer gave another shape or dtype than it said.
    """
    ordered = sorted(tensors, key=lambda entry: entry.name)
    header = _header(ordered, {"format": "pt", **(metadata or {})})
    with path.open("xb") as file:
        file.write(header)
        for entry in ordered:
            file.write(_bytes(entry))


def _header(tensors: list[NewEntry], metadata: Mapping[str, str]) -> bytes:
    data: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    place = 0
    for entry in tensors:
        data[entry.name] = {
            "dtype": NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [place, place + entry.bytes],
        }
        place += entry.bytes
    text = json.dumps(data, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(entry: NewEntry) -> memoryview:
    import torch

    tensor = entry.produce().detach().cpu().contiguous()
    found = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
    if found != (entry.dtype, entry.shape):
        raise ValueError(f"{entry.name}: planned {entry.dtype} {entry.shape}, got {found}")
    if not tensor.numel():
        return memoryview(b"")
    flat = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return memoryview(flat.reshape(-1).view(torch.uint8).numpy())
