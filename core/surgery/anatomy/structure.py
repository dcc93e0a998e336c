"""The bare structure of a model: one site for each module, and for each raw parameter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from surgery.anatomy.extended import bare_class, own_tensors
from surgery.anatomy.site import Site
from surgery.anatomy.tree import paths_of


def structure(model: nn.Module) -> list[Site]:
    """Give the sites of a model without roles, modules first, in one pass.

    A module's ``weight`` belongs to the module's site; every other parameter has its own.
    """
    modules: list[Site] = []
    parameters: list[Site] = []
    names: dict[int, str] = {}
    for module, paths in _modules(model):
        path, types = paths[0], types_of(bare_class(module))
        weight = module._parameters.get("weight")
        if weight is None:
            modules.append(Site(path, paths, types=types))
        else:
            name = _join(path, "weight")
            shape, tied = tuple(weight.shape), _tied(weight, name, names)
            modules.append(Site(path, paths, name, types, shape=shape, tied=tied))
        if module._parameters:
            parameters += _raw(path, module, names)
    return modules + parameters


def _raw(path: str, module: nn.Module, names: dict[int, str]) -> Iterator[Site]:
    """Give the sites of a module's own parameters that are not its weight."""
    added = own_tensors(module)
    for leaf, tensor in module._parameters.items():
        if tensor is not None and leaf != "weight" and leaf not in added:
            name = _join(path, leaf)
            shape, tied = tuple(tensor.shape), _tied(tensor, name, names)
            yield Site(name, (name,), name, ("Parameter",), shape=shape, tied=tied)


def trainable_of(model: nn.Module) -> tuple[int, int]:
    """Count the numbers of a model that train, and all of them; tied ones count once."""
    sizes = [(tensor.numel(), tensor.requires_grad) for tensor in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def _tied(tensor: nn.Parameter, name: str, names: dict[int, str]) -> str | None:
    """Give the name under which the same tensor was met before, or None."""
    first = names.setdefault(id(tensor), name)
    return first if first != name else None


def _modules(model: nn.Module) -> Iterable[tuple[nn.Module, tuple[str, ...]]]:
    """Give every module once, with all of its paths."""
    found: dict[int, tuple[nn.Module, tuple[str, ...]]] = {}
    for path, module in paths_of(model):
        known = found.get(id(module))
        found[id(module)] = (module, (*known[1], path) if known else (path,))
    return found.values()


def _join(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf


_TYPES: dict[type, tuple[str, ...]] = {}


def types_of(kind: type[nn.Module]) -> tuple[str, ...]:
    """Give the names of a class and its bases up to ``Module``."""
    if kind not in _TYPES:
        names = [base.__name__ for base in kind.__mro__ if issubclass(base, nn.Module)]
        _TYPES[kind] = tuple(dict.fromkeys(names))
    return _TYPES[kind]
