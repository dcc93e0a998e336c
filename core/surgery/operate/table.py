"""The table of a model's tensors: what a plan compares before and after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from surgery.anatomy.tree import paths_of
from surgery.operate.dtypes import dtype_of, name_of

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor of a model.

    Attributes:
        name: its first dotted name.
        shape: its shape.
        dtype: its dtype by torch's name.
        trainable: whether it takes gradients.
        persistent: False for a buffer that is in no checkpoint.
        aliases: further names of the same tensor (ties).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    persistent: bool = True
    aliases: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.count * dtype_of(self.dtype).itemsize

    def to_json(self) -> dict[str, object]:
        """Give the row as JSON values."""
        row: dict[str, object] = {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "trainable": self.trainable,
            "bytes": self.bytes,
        }
        return {**row, "aliases": list(self.aliases)} if self.aliases else row


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Give every tensor of a model under every name: name, tensor, whether it is persistent."""
    for path, module in paths_of(model):
        prefix = f"{path}." if path else ""
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                yield prefix + leaf, parameter, True
        for leaf, buffer in module._buffers.items():
            if buffer is not None:
                yield prefix + leaf, buffer, leaf not in module._non_persistent_buffers_set


def table_of(tensors: Iterable[tuple[str, Tensor, bool]]) -> tuple[Row, ...]:
    """Give one row for each tensor, ties folded into aliases, in module order."""
    found: dict[int, tuple[Tensor, bool, list[str]]] = {}
    for name, tensor, persistent in tensors:
        found.setdefault(id(tensor), (tensor, persistent, []))[2].append(name)
    return tuple(
        Row(names[0], tuple(t.shape), name_of(t.dtype), t.requires_grad, keep, tuple(names[1:]))
        for t, keep, names in found.values()
    )


def parameters(rows: Iterable[Row], trainable: bool | None = None) -> int:
    """Count the elements of persistent rows, of the trainable or frozen ones alone if asked."""
    return sum(
        r.count for r in rows if r.persistent and (trainable is None or r.trainable == trainable)
    )
