"""The bare structure of a model: one site for each module, and for each raw parameter."""

from __future__ import annotations

from torch import nn

from surgery.anatomy.extended import bare_class, own_tensors
from surgery.anatomy.site import Site


def structure(model: nn.Module) -> list[Site]:
    """Give the sites of a model without roles, modules first, in one pass.

    A module's ``weight`` belongs to the module's site; every other parameter has its own.
    """
    paths = _paths(model)
    modules, parameters = [], []
    names: dict[int, str] = {}
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        added = own_tensors(module)
        modules.append(
            Site(
                path,
                paths[id(module)],
                parameter=None if weight is None else _join(path, "weight"),
                types=types_of(bare_class(module)),
                shape=() if weight is None else tuple(weight.shape),
                tied=None if weight is None else _tied(weight, _join(path, "weight"), names),
            )
        )
        for leaf, tensor in module._parameters.items():
            if tensor is not None and leaf != "weight" and leaf not in added:
                name = _join(path, leaf)
                shape, tied = tuple(tensor.shape), _tied(tensor, name, names)
                parameters.append(Site(name, (name,), name, ("Parameter",), shape=shape, tied=tied))
    return modules + parameters


def trainable_of(model: nn.Module) -> tuple[int, int]:
    """Count the numbers of a model that train, and all of them; tied ones count once."""
    sizes = [(tensor.numel(), tensor.requires_grad) for tensor in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def _tied(tensor: nn.Parameter, name: str, names: dict[int, str]) -> str | None:
    """Give the name under which the same tensor was met before, or None."""
    first = names.setdefault(id(tensor), name)
    return first if first != name else None


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
