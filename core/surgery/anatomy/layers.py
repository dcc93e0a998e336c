"""Layers: the repeated blocks of a model, found from where the roles lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from surgery.anatomy.site import Layer


def find_layers(
    model: nn.Module, attention: Iterable[str], others: Iterable[str]
) -> dict[str, Layer]:
    """Give each layer's module path with its number and container.

    A container is a list of numbered children, of fewer classes than children, the innermost
    in whose items whole attention modules lie; where there is none, the outermost in whose items
    weights of any role lie.

    Args:
        model: the model.
        attention: paths of modules that hold all parts of one attention call.
        others: paths of modules that hold weights with roles.
    """
    lists = numbered(model)
    chosen = {c for path in attention if (c := _innermost(path, lists))}
    if not chosen:
        held = [path for path in others if _outermost(path, lists)]
        chosen = {str(_outermost(path, lists)) for path in held}
    return {
        f"{container}.{number}" if container else number: Layer(
            index, container, len(lists[container])
        )
        for container in sorted(chosen)
        for index, number in enumerate(lists[container])
    }


def layer_of(path: str, layers: Mapping[str, Layer]) -> Layer | None:
    """Give the innermost layer that a path lies in."""
    while path:
        if path in layers:
            return layers[path]
        path = path.rpartition(".")[0]
    return None


def numbered(model: nn.Module) -> dict[str, list[str]]:
    """Give the lists of numbered children, by path."""
    found = {}
    for path, module in model.named_modules():
        children = module._modules
        if children and all(name.isdecimal() for name in children):
            kinds = {type(child) for child in children.values()}
            if len(kinds) < len(children) or len(children) == 1:
                found[path] = list(children)
    return found


def _containers(path: str, lists: Mapping[str, list[str]]) -> list[str]:
    """Give the lists in whose items a path lies, innermost first."""
    parts = path.split(".")
    return [
        ".".join(parts[:depth])
        for depth in range(len(parts) - 1, -1, -1)
        if parts[depth].isdecimal() and ".".join(parts[:depth]) in lists
    ]


def _innermost(path: str, lists: Mapping[str, list[str]]) -> str | None:
    return next(iter(_containers(path, lists)), None)


def _outermost(path: str, lists: Mapping[str, list[str]]) -> str | None:
    found = [c for c in _containers(path, lists) if len(lists[c]) > 1]
    return found[-1] if found else None
