"""Slots: tensors that an operation adds or changes, and how their values are computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias

import torch

from surgery.errors import SurgeryError
from surgery.operate.dtypes import drawing_dtype, dtype_of
from surgery.operate.edits import Derive, Init, Keep, Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


@dataclass(eq=False)
class Slot:
    """A tensor that one step adds or changes.

    Attributes:
        name: dotted name at the time of placing.
        shape: planned shape.
        dtype: planned dtype by torch's name.
        value: where the values come from.
        step: number of the step, from 0.
        sources: the tensors that ``value`` names, as they are before the step.
        holders: the modules, and the attribute of each, that hold the tensor.
        trainable: whether it takes gradients.
        buffer: True for a buffer.
        device: where the filled tensor goes; None or meta where it stays on meta.
        values: the filled tensor, once there is one.
        placeholder: the tensor on meta that stands for it until then.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    value: Value
    step: int
    sources: tuple[Origin, ...] = ()
    holders: list[tuple[nn.Module, str]] = field(default_factory=list)
    trainable: bool = True
    buffer: bool = False
    device: torch.device | None = None
    values: Tensor | None = None
    placeholder: Tensor | None = None

    @property
    def saved(self) -> bool:
        """Tell whether the values must be stored, because the base does not hold them."""
        return not isinstance(self.value, Keep)


@dataclass(frozen=True, eq=False)
class Base:
    """A tensor of the base, as it was before the operation.

    Attributes:
        name: its dotted name.
        tensor: the tensor; on meta where the patient is.
    """

    name: str
    tensor: Tensor


Origin: TypeAlias = Slot | Base


def seed_of(seed: int, name: str) -> int:
    """Give the seed of one tensor: of the recipe's seed and the name alone, 63 bits."""
    return int.from_bytes(sha256(f"{seed}\0{name}".encode()).digest()[:8], "big") >> 1


def compute(slot: Slot, seed: int, read: Callable[[Origin], Tensor]) -> Tensor:
    """Compute a slot's values on the CPU, in its planned dtype.

    Args:
        slot: what to compute.
        seed: the recipe's seed.
        read: gives the values of a source.

    Raises:
        SurgeryError: a surgery computed another shape than it planned.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, slot.name))
    with torch.no_grad():
        result = _evaluate(slot, generator, read)
    if tuple(result.shape) != slot.shape:
        raise SurgeryError(slot.name, f"the planned shape {slot.shape}", str(tuple(result.shape)))
    return result.to(dtype_of(slot.dtype)).contiguous()


def _evaluate(slot: Slot, generator: torch.Generator, read: Callable[[Origin], Tensor]) -> Tensor:
    value = slot.value
    if isinstance(value, Init):
        fresh = torch.empty(slot.shape, dtype=drawing_dtype(slot.dtype))
        value.fill(fresh, generator)
        return fresh
    old = [read(origin) for origin in slot.sources]
    if isinstance(value, Derive):
        result: Tensor = value.compute(*old, generator=generator)
        return result
    return old[0].detach().clone()
