"""The bare structure of a model: one site for each module, and for each raw parameter."""

from __future__ import annotations

from torch import nn

from surgery.anatomy.extended import own_tensors, plain_class
from surgery.anatomy.site import Site


def structure(model: nn.Module) -> list[Site]:
    """Give the sites of a model without roles, modules first, in one pass.

    A module's ``weight`` belongs to the module's site; every other parameter has its own.
    """
    paths = _paths(model)
    modules, parameters = [], []
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        added = own_tensors(module)
        modules.append(
            Site(
                path,
                paths[id(module)],
                parameter=None if weight is None else _join(path, "weight"),
                types=types_of(plain_class(module)),
                shape=() if weight is None else tuple(weight.shape),
            )
        )
        for leaf, tensor in module._parameters.items():
            if tensor is not None and leaf != "weight" and leaf not in added:
                name = _join(path, leaf)
                parameters.append(
                    Site(name, (name,), name, ("Parameter",), shape=tuple(tensor.shape))
                )
    return modules + parameters


def _paths(model: nn.Module) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found[id(module)] = (*found.get(id(module), ()), path)
    return found


def _join(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf


_TYPES: dict[type, tuple[str, ...]] = {}


def types_of(kind: type[nn.Module]) -> tuple[str, ...]:
    """Give the names of a class and its bases up to ``Module``."""
    if kind not in _TYPES:
        names = [base.__name__ for base in kind.__mro__ if issubclass(base, nn.Module)]
        _TYPES[kind] = tuple(dict.fromkeys(names))
    return _TYPES[kind]
