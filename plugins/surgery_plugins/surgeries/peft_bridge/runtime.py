"""What a module with a layer of PEFT around it computes: what that layer computes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from surgery.operate.behaviour import Behaviour
from surgery_plugins.surgeries.peft_bridge.layers import BASE, added, dictionaries

MODE = "_peft_mode"
"""Attribute of a module held in eval mode: the mode that its parent asked for."""


@dataclass(frozen=True)
class Bridge:
    """Hold a layer of PEFT without its tensors and without its module.

    Attributes:
        adapter: the adapter's name.
        layer: the layer; its tensors are on meta and stand for those of the module.
        names: the module's names of the layer's tensors, by the layer's own names.
    """

    adapter: str
    layer: nn.Module = field(repr=False)
    names: Mapping[str, str] = field(repr=False)


def emptied(layer: nn.Module) -> nn.Module:
    """Take module and values out of a layer of PEFT."""
    layer._modules[BASE] = None
    for module in layer.modules():
        inside = [table for _, table in dictionaries(module)]
        for table in (module._parameters, module._buffers, *inside):
            held = cast("dict[str, Any]", table)
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = torch.empty_like(tensor, device="meta")
    return layer


class Bridged(Behaviour):
    """Run a layer of PEFT around the module's own forward."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Give what PEFT's layer gives; the module and its tensors keep their names."""
        module = cast("nn.Module", self)
        (_, bridge) = next(self.extensions(Bridge))
        tables: Mapping[str, Any] = {**module._buffers, **module._parameters}
        tensors = {name: tables[own] for name, own in bridge.names.items()}
        training = module.__dict__.get(MODE, module.training)
        view = _view(bridge.layer, "", tensors, training)
        view._modules[BASE] = _below(module)
        return view.forward(*args, **kwargs)

    def train(self, mode: bool = True) -> Any:
        """Follow a parent's mode, and the layer with it."""
        self.__dict__.pop(MODE, None)
        return super().train(mode)  # type: ignore[misc]

    def follow_mode(self, mode: bool) -> None:
        """Let the layer follow a mode, although the module is held in eval mode."""
        self.__dict__[MODE] = mode


def _view(node: nn.Module, path: str, tensors: Mapping[str, Tensor], training: bool) -> Any:
    """Give a copy of a layer, for one call, that holds other tensors; threads share nothing."""
    view = object.__new__(type(node))
    view.__dict__.update(node.__dict__)
    for table in ("_parameters", "_buffers"):
        held: Any = node.__dict__[table]
        view.__dict__[table] = {name: tensors.get(path + name, held[name]) for name in held}
    for table, held in dictionaries(node):
        view.__dict__[table] = {key: tensors[f"{path}{table}.{key}"] for key in held}
    view.__dict__["_modules"] = {
        name: child if child is None else _view(child, f"{path}{name}.", tensors, training)
        for name, child in node._modules.items()
    }
    view.__dict__["training"] = training
    return view


def _below(module: nn.Module) -> nn.Module:
    """Give the module as it is without this behaviour: the same tensors, no hooks of its own."""
    kind: Any = type(module)
    below = object.__new__(_without(kind))
    object.__setattr__(below, "__dict__", module.__dict__)
    return below


@cache
def _without(cls: Hashable) -> type[nn.Module]:
    """Give the class below ``Bridged``, whose call is its forward: hooks ran already."""
    every = cast("type", cls).__mro__
    mixed = next(one for one in every if Bridged in one.__bases__)
    base: Any = mixed.__bases__[1]
    return type(f"Below{base.__name__}", (base,), {"__call__": base.forward})


def names_in(layer: nn.Module, adapter: str) -> dict[str, str]:
    """Give the names that a layer's tensors get in the module, by the layer's own names."""
    return {
        name: f"peft_{adapter}_" + name.replace(".default", "").replace(".", "_")
        for name, _ in added(layer)
    }
