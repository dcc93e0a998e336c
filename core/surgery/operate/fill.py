"""Give placed tensors their values: computed from the plan, or read from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from torch import Tensor, nn

from surgery.operate.edits import Keep
from surgery.operate.slots import Base, Origin, Slot, compute

Progress: TypeAlias = Callable[[int, int], object]
"""Called with bytes or tensors done and in all."""


def fill(
    slots: Iterable[Slot],
    seed: int,
    saved: Callable[[Slot], Tensor | None] = lambda slot: None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Give every slot of a patient in memory its values; slots on meta stay there.

    Args:
        slots: what was placed, in order.
        seed: the recipe's seed.
        saved: gives the stored values of a slot, or None where they are to be computed.
        progress: called after each tensor.
    """
    todo = [slot for slot in slots if slot.device is not None and slot.device.type != "meta"]
    for done, slot in enumerate(todo):
        stored = saved(slot)
        values = _computed(slot, seed) if stored is None else stored
        put(slot, values.to(slot.device, copy=isinstance(slot.value, Keep)))
        progress(done + 1, len(todo))


def _computed(slot: Slot, seed: int) -> Tensor:
    old = [read_live(origin) for origin in slot.sources]
    return compute(slot.value, old, name=slot.name, shape=slot.shape, dtype=slot.dtype, seed=seed)


def read_live(origin: Origin) -> Tensor:
    """Give the values of a source from memory, on the CPU."""
    tensor = origin.tensor if isinstance(origin, Base) else origin.values
    if tensor is None:
        raise RuntimeError(f"{origin.name} is read before it is filled")
    return tensor.detach().cpu()


def put(slot: Slot, values: Tensor) -> None:
    """Give a slot its values, in every module that holds it.

    Args:
        slot: what was placed.
        values: of its shape and dtype, not held by anything else.
    """
    slot.values = values if slot.buffer else nn.Parameter(values, requires_grad=slot.trainable)
    for module, leaf in slot.holders:
        table: dict[str, Any] = module._buffers if slot.buffer else module._parameters
        if table.get(leaf) is slot.placeholder:
            table[leaf] = slot.values
