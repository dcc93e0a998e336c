"""Tell which of the repeated layers of a model are alike: same classes, values and tensor forms."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor, nn

from surgery.anatomy.layers import numbered

_PLUMBING = frozenset(vars(nn.Module()))
_HOOKS = tuple(name for name in _PLUMBING if name.endswith("_hooks"))
_PLAIN = (type(None), int, float, complex, str, bytes)
_NUMBER = re.compile(r"(^|_)(id|idx|index|nr|number)$")
"""Names of attributes that may hold a layer's own number."""


def alike(model: nn.Module) -> list[list[str]]:
    """Give groups of alike layers, by path, each in the order of its list.

    Layers are alike where module trees, classes, tensor shapes, strides and dtypes, and all
    attributes are equal; an attribute named for an index may hold the layer's own number. A layer
    with hooks, or with a forward of its own, is like no other.
    """
    groups: dict[Hashable, list[str]] = {}
    for path, names in numbered(model).items():
        container = model.get_submodule(path)
        for number, name in enumerate(names):
            key = (path, form(container._modules[name], number))
            groups.setdefault(key, []).append(f"{path}.{name}" if path else name)
    return [group for group in groups.values() if len(group) > 1]


def form(module: nn.Module | None, number: int) -> Hashable:
    """Give what alike modules have in common; equal to nothing where one cannot tell."""
    if module is None:
        return None
    own = vars(module)
    if "forward" in own or any(map(own.get, _HOOKS)):
        return object()
    return (
        type(module),
        module.training,
        tuple(
            (name, "its number")
            if type(value) is int and value == number and _NUMBER.search(name)
            else (name, value_form(value, module))
            for name, value in own.items()
            if name not in _PLUMBING
        ),
        tuple((name, value_form(tensor)) for name, tensor in _tensors(module)),
        tuple((name, form(child, number)) for name, child in module._modules.items()),
    )


def value_form(value: Any, owner: Any = None) -> Hashable:
    """Give what equal values have in common: tensors by their form, other objects by identity."""
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, Tensor):
        return "tensor", tuple(value.shape), value.stride(), value.dtype, value.device
    if isinstance(value, tuple | list):
        return type(value), tuple(value_form(item, owner) for item in value)
    if isinstance(value, dict):
        return type(value), tuple((key, value_form(item, owner)) for key, item in value.items())
    if isinstance(value, MethodType):
        return "method", value.__func__, value.__self__ is owner or id(value.__self__)
    if isinstance(value, partial):
        return "partial", value.func, value_form([value.args, value.keywords], owner)
    return "object", id(value)


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor | None]]:
    yield from module._parameters.items()
    yield from module._buffers.items()
