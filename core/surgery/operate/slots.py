"""Slots: tensors that an operation adds or changes, and how their values are computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from surgery.errors import SurgeryError
from surgery.operate.dtypes import drawing_dtype, dtype_of
from surgery.operate.edits import Derive, Keep, Value

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torch import Tensor, nn

    from surgery.operate.stretches import Stretches

MOST = 2**60
"""Numbers that no tensor has more of; a record that asks for more is forged."""


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

    def __post_init__(self) -> None:
        if min(self.shape, default=0) < 0 or prod(self.shape) > MOST:
            raise SurgeryError(self.name, f"a tensor of at most {MOST} numbers", str(self.shape))

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


def folded_name(slot: Slot, there: Collection[str]) -> str:
    """Give the name under which a tensor is stored that is gone from the model.

    Args:
        slot: the tensor.
        there: names of the added and changed tensors that are there; none is used twice.
    """
    again = any(isinstance(one, Slot) and one.name == slot.name for one in slot.sources)
    return f"{slot.name}@{slot.step}" if again or slot.name in there else slot.name


def seed_of(seed: int, name: str) -> int:
    """Give the seed of one tensor: of the recipe's seed and the name alone, 63 bits."""
    return int.from_bytes(sha256(f"{seed}\0{name}".encode()).digest()[:8], "big") >> 1


def compute(
    value: Value,
    old: Sequence[Tensor],
    *,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    seed: int,
) -> Tensor:
    """Compute the values of a tensor on the CPU.

    Args:
        value: how.
        old: the tensors that ``value`` names, in its order.
        name: the tensor's dotted name, of which its seed is made.
        shape: the planned shape.
        dtype: the planned dtype by torch's name.
        seed: the recipe's seed.

    Returns:
        The tensor; of ``Keep`` the old one itself, unless its dtype is another.

    Raises:
        SurgeryError: a surgery computed another shape than it planned.
    """
    with torch.no_grad():
        result = _evaluate(value, old, seed_of(seed, name), shape, dtype)
    if tuple(result.shape) != shape:
        raise SurgeryError(name, f"the planned shape {shape}", str(tuple(result.shape)))
    return result.detach().to(dtype_of(dtype)).contiguous()


def compute_pieces(
    value: Derive,
    first: Stretches,
    others: Sequence[Tensor],
    *,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    seed: int,
) -> Iterator[Tensor]:
    """Compute the values of a tensor on the CPU piece by piece, with the bits of ``compute``.

    Args:
        value: how; its computation is ``Piecewise``.
        first: the first tensor that ``value`` names.
        others: the other tensors that ``value`` names.
        name: the tensor's dotted name, of which its seed is made.
        shape: the planned shape.
        dtype: the planned dtype by torch's name.
        seed: the recipe's seed.

    Raises:
        SurgeryError: a surgery computed another number of elements than it planned.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, name))
    method: Any = value.compute
    pieces, done = method.pieces(first, *others, generator=generator), 0
    while True:
        with torch.no_grad():
            piece = next(pieces, None)
        if piece is None:
            break
        done += piece.numel()
        yield piece.detach().to(dtype_of(dtype)).contiguous()
    if done != prod(shape):
        raise SurgeryError(name, f"{prod(shape)} numbers for {shape}", f"{done} of them")


def _evaluate(
    value: Value, old: Sequence[Tensor], seed: int, shape: tuple[int, ...], dtype: str
) -> Tensor:
    if isinstance(value, Keep):
        return old[0]
    generator = torch.Generator().manual_seed(seed)
    if isinstance(value, Derive):
        result: Tensor = value.compute(*old, generator=generator)
        return result
    fresh = torch.empty(shape, dtype=drawing_dtype(dtype))
    value.fill(fresh, generator)
    return fresh
