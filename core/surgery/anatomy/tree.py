"""The tree of modules, read without torch's generators, which resume one frame for each level."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def paths_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Give every module under every path, in module order; the model itself under an empty one.

    The same as ``model.named_modules(remove_duplicate=False)``.
    """
    found: list[tuple[str, nn.Module]] = [("", model)]
    _below(model, "", found)
    return found


def _below(module: nn.Module, prefix: str, found: list[tuple[str, nn.Module]]) -> None:
    for name, child in module._modules.items():
        if child is not None:
            path = prefix + name
            found.append((path, child))
            if child._modules:
                _below(child, path + ".", found)
