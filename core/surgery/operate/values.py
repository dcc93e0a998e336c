"""Where the numbers of tensors come from, as plain data that another thread or machine can use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from surgery.checkpoint.dtypes import size_of
from surgery.checkpoint.header import TensorEntry
from surgery.checkpoint.tensors import read_tensor
from surgery.operate.edits import Derive, Init, Keep, Value
from surgery.operate.slots import Base, Origin, Slot, compute, compute_pieces
from surgery.operate.stretches import ROOM, Piecewise, Stretches

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Made:
    """A tensor that is computed.

    Attributes:
        name: its dotted name, of which its seed is made.
        shape: its shape.
        dtype: its dtype by torch's name.
        value: how it is computed.
        sources: the tensors that ``value`` names, in its order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    value: Value
    sources: tuple[Node, ...] = ()


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor that is in memory.

    Attributes:
        tensor: the tensor.
    """

    tensor: Tensor


Node: TypeAlias = TensorEntry | Made | Held
"""A tensor in a file, one that is computed, or one in memory."""


class NotStoredError(Exception):
    """Say why a tensor cannot be made from files alone.

    Args:
        name: the tensor.
        why: the reason, as the end of a sentence.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} {why}")
        self.name, self.why = name, why


def values_of(node: Node, seed: int) -> Tensor:
    """Give the values of a tensor on the CPU; what it is made of is read, used and let go.

    Args:
        node: the tensor.
        seed: the recipe's seed.

    Raises:
        SurgeryError: a file is damaged, or a surgery computed another shape than it planned.
    """
    if isinstance(node, Held):
        return node.tensor.detach()
    if isinstance(node, TensorEntry):
        return read_tensor(node)
    old = [values_of(source, seed) for source in node.sources]
    return compute(node.value, old, name=node.name, shape=node.shape, dtype=node.dtype, seed=seed)


def pieces_of(node: Node, seed: int) -> Iterator[Tensor]:
    """Give the values of a tensor on the CPU in consecutive pieces, as small as they come.

    Args:
        node: the tensor.
        seed: the recipe's seed.

    Raises:
        SurgeryError: a file is damaged, or a surgery computed another shape than it planned.
    """
    value = node.value if isinstance(node, Made) else None
    if not (isinstance(node, Made) and isinstance(value, Derive) and is_piecewise(value)):
        yield values_of(node, seed)
        return
    first, *others = node.sources
    start = Stretches(first if isinstance(first, TensorEntry) else values_of(first, seed))
    old = [values_of(source, seed) for source in others]
    yield from compute_pieces(
        value, start, old, name=node.name, shape=node.shape, dtype=node.dtype, seed=seed
    )


def is_piecewise(value: Value) -> bool:
    """Tell whether a value can be computed without the whole of its first source in memory."""
    if not isinstance(value, Derive):
        return False
    return bool(value.sources) and isinstance(value.compute, Piecewise)


def memory_for(node: Node) -> int:
    """Estimate the bytes that must be in memory at once to compute a tensor.

    Its sources, itself, and one float32 copy, in which surgeries calculate; of what is computed
    piece by piece only the further sources, and some room.
    """
    if isinstance(node, Held):
        return 0
    own = prod(node.shape)
    if isinstance(node, Made) and is_piecewise(node.value):
        first = () if isinstance(node.sources[0], TensorEntry) else node.sources[:1]
        return min(ROOM, 8 * own) + sum(map(memory_for, (*first, *node.sources[1:])))
    if isinstance(node, TensorEntry):
        return own * size_of(node.dtype)
    computed = isinstance(node.value, Derive)
    return own * (size_of(node.dtype) + 4 * computed) + sum(map(memory_for, node.sources))


@dataclass
class Resolver:
    """Turn the tensors of an operation on meta into nodes over files.

    Attributes:
        entries: the stored tensors of the base, by their names in the files.
        names: for each tensor of the model, its names in the files.
        converted: for each tensor that is stored in another form, what its library does to it.
        stored: gives the file entry of a slot's finished values, where there is one.
        trained: the stored values of base tensors that training changed.
    """

    entries: dict[str, TensorEntry]
    names: dict[str, tuple[str, ...]]
    converted: dict[str, str]
    stored: Callable[[Slot], TensorEntry | None] = lambda slot: None
    trained: Mapping[str, TensorEntry] = field(default_factory=dict)
    _known: dict[int, Node] = field(default_factory=dict)

    def node(self, origin: Origin) -> Node:
        """Give the node of a tensor.

        Raises:
            NotStoredError: files alone do not give it.
        """
        found = self._known.get(id(origin)) if isinstance(origin, Slot) else None
        if found is None:
            found = self._slot(origin) if isinstance(origin, Slot) else self._base(origin)
            self._known[id(origin)] = found
        return found

    def _slot(self, slot: Slot) -> Node:
        if stored := self.stored(slot):
            return stored
        if isinstance(slot.value, Init) and slot.value.live:
            raise NotStoredError(slot.name, "is computed by running the model's forward")
        sources = tuple(map(self.node, slot.sources))
        if isinstance(slot.value, Keep) and same_form(sources[0], slot.shape, slot.dtype):
            return sources[0]
        return Made(slot.name, slot.shape, slot.dtype, slot.value, sources)

    def _base(self, base: Base) -> Node:
        dtype = str(base.tensor.dtype).removeprefix("torch.")
        return self.stored_base(base.name, tuple(base.tensor.shape), dtype)

    def stored_base(self, name: str, shape: tuple[int, ...], dtype: str) -> Node:
        """Give the node of a tensor of the base, cast where the patient has another dtype.

        Raises:
            NotStoredError: no file holds it as it is.
        """
        if name in self.trained:
            return self.trained[name]
        if name in self.converted:
            raise NotStoredError(name, f"is stored in another form ({self.converted[name]})")
        if name not in self.names:
            raise NotStoredError(name, "is in no file of the base")
        entry = self.entries[self.names[name][0]]
        if entry.shape != shape:
            raise NotStoredError(name, f"is stored with shape {entry.shape} and not {shape}")
        if entry.dtype == dtype:
            return entry
        return Made(name, shape, dtype, Keep(name), (entry,))


def same_form(node: Node, shape: tuple[int, ...], dtype: str) -> bool:
    """Tell whether a node gives a tensor of a shape and dtype without any change."""
    return not isinstance(node, Held) and (node.shape, node.dtype) == (shape, dtype)


def parts_of(node: Node) -> Iterator[Node]:
    """Give a node and all that it is made of."""
    yield node
    if isinstance(node, Made):
        for source in node.sources:
            yield from parts_of(source)
