"""What differs between two models that were built anew: tensors and plain attributes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Changed:
    """A tensor that is otherwise in the second model.

    Attributes:
        name: its first dotted name.
        old: the first model's; a parameter is on meta.
        new: the second model's.
        weight: True for what a checkpoint holds, numbers that were trained or drawn; False for a
            table that follows from the configuration.
    """

    name: str
    old: Tensor
    new: Tensor
    weight: bool


@dataclass(frozen=True)
class Difference:
    """What differs between two models of one class.

    Attributes:
        tensors: weights of another shape, and tables of another shape or other values.
        attributes: plain attributes of modules by dotted path, with the second model's values.
    """

    tensors: tuple[Changed, ...]
    attributes: dict[str, Any]


def difference(old: nn.Module, new: nn.Module) -> Difference:
    """Compare two models that one class built.

    Args:
        old: the first, its parameters on meta.
        new: the second.

    Raises:
        RefusedError: they do not have the same modules and tensors.
    """
    return Difference(tuple(_tensors(old, new)), attributes(old, new))


def attributes(old: nn.Module, new: nn.Module) -> dict[str, Any]:
    """Give the plain attributes that differ between two models, with the second's values.

    Raises:
        RefusedError: they do not have the same modules.
    """
    before, after = dict(old.named_modules()), dict(new.named_modules())
    _same(sorted(before), sorted(after), "modules")
    return {
        f"{path}.{leaf}" if path else leaf: value
        for path, module in before.items()
        for leaf, value in _attributes(module, after[path])
    }


def _same(old: list[str], new: list[str], what: str) -> None:
    if old != new:
        odd = sorted(set(old) ^ set(new))
        raise RefusedError(
            "the changed configuration",
            f"one that builds the same {what}",
            f"one that adds or takes away {', '.join(odd[:3])}",
            "this change needs a surgery of structure",
        )


def _tensors(old: nn.Module, new: nn.Module) -> Iterator[Changed]:
    before, after = _named(old), _named(new)
    _same(sorted(before), sorted(after), "tensors")
    for name, (tensor, weight) in before.items():
        other = after[name][0]
        if tensor.shape != other.shape or not (weight or _equal(tensor, other)):
            yield Changed(name, tensor, other, weight)


def _named(model: nn.Module) -> dict[str, tuple[Tensor, bool]]:
    """Give each tensor once, by its first name; True for a weight."""
    found: dict[str, tuple[Tensor, bool]] = {n: (t, True) for n, t in model.named_parameters()}
    stored = model.state_dict(keep_vars=True).keys()
    for name, table in model.named_buffers():
        counts = table.is_floating_point() or table.is_complex()
        found[name] = (table, name in stored and counts)
    return found


def _equal(one: Tensor, other: Tensor) -> bool:
    import torch

    return one.dtype == other.dtype and (one.is_meta or torch.equal(one, other))


def _attributes(old: nn.Module, new: nn.Module) -> Iterator[tuple[str, Any]]:
    """Give the plain attributes that differ, with their new values."""
    from torch import nn

    inherited = vars(nn.Module())
    for name, value in vars(new).items():
        if name in inherited or not is_plain(value):
            continue
        before = vars(old).get(name)
        if type(before) is not type(value) or before != value:
            yield name, value


def is_plain(value: Any) -> bool:
    """Tell whether a value is made of numbers, texts, lists and mappings, or is a function."""
    if isinstance(value, FunctionType):
        return "<" not in value.__qualname__
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, (*value, *value.values())))
    return value is None or isinstance(value, bool | int | float | str)
