"""Outputs of modules: the one that is named, and what there is to name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def picked(value: Any, name: str | None) -> Tensor:
    """Give the tensor that a name says, in what a module gave.

    Args:
        value: a tensor, or tensors in tuples, lists, mappings and model outputs.
        name: keys, attributes and numbers with dots between, such as ``hidden_states.0``; None
            where the value is a tensor itself.

    Raises:
        LookupError: there is no such tensor.
    """
    import torch

    for part in () if name is None else name.split("."):
        value = _part(value, part)
    if not isinstance(value, torch.Tensor):
        raise LookupError("what is named is no tensor")
    return value


def _part(value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        return value[part]
    if part.isdecimal() and isinstance(value, tuple | list):
        return value[int(part)]
    found = getattr(value, part, None) if not hasattr(value, "dtype") else None
    if found is None:
        raise LookupError(part)
    return found


def snapshot(value: Any) -> Any:
    """Give what a module gave with containers of its own: models write into those they get."""
    if isinstance(value, Mapping):
        return {key: snapshot(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [snapshot(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def tensors_by_output(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Give every tensor in what a module gave, with the name that ``picked`` takes."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
        return
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, tuple | list):
        parts = enumerate(value)
    for key, part in parts:
        yield from tensors_by_output(part, f"{name}.{key}" if name else str(key))
