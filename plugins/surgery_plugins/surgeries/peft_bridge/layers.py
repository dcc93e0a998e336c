"""PEFT's own layers for some modules, built by PEFT's own code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from surgery.anatomy.extended import EXTENSIONS, own_tensors, plain_class
from surgery.anatomy.stand_in import twin
from surgery.errors import RefusedError
from surgery.operate.chance import seeded
from surgery_plugins.surgeries.peft_bridge.methods import configuration, tuner

ADAPTER = "default"
"""The name by which PEFT knows the one adapter of its layers."""

BASE = "base_layer"
"""The name under which PEFT's layers hold the module."""


@dataclass(frozen=True)
class Blueprint:
    """Say which layers PEFT shall build.

    Attributes:
        method: PEFT's name of the method.
        options: the method's own options.
        modules: stand-ins of the modules, on meta, by path.
        last: the tensors that were built last, by what they were built of.
    """

    method: str
    options: Mapping[str, Any]
    modules: Mapping[str, nn.Module] = field(repr=False)
    last: dict[tuple[int, str, int], dict[str, Tensor]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def alone(self, path: str) -> Blueprint:
        """Give the blueprint of one module."""
        return Blueprint(self.method, self.options, {path: self.modules[path]})


def tensors_around(
    blueprint: Blueprint, seed: int, path: str, weights: Sequence[Tensor]
) -> Mapping[str, Tensor]:
    """Give what PEFT's layer around one module begins with; it is built for all of it once.

    Args:
        blueprint: what to build.
        seed: of everything that is drawn.
        path: the module.
        weights: its values, or nothing where they do not count.

    Raises:
        RefusedError: PEFT refuses a module or an option, or changes the weights.
    """
    key = (seed, path, len(weights))
    found = blueprint.last.get(key)
    if found is None:
        layer = build(blueprint, seed, {path: weights} if weights else {})[path]
        found = {name: tensor.detach() for name, tensor in added(layer)}
        blueprint.last.clear()
        blueprint.last[key] = found
    return found


def stand_in(module: nn.Module) -> nn.Module:
    """Give a module as it was before it was extended, its tensors on meta."""
    copy = twin(module)
    for name in own_tensors(module):
        copy._parameters.pop(name, None)
        copy._buffers.pop(name, None)
    copy.__dict__.pop(EXTENSIONS, None)
    copy.__class__ = plain_class(module)
    return copy.requires_grad_(False)


def build(
    blueprint: Blueprint, seed: int = 0, weights: Mapping[str, Sequence[Tensor]] | None = None
) -> dict[str, nn.Module]:
    """Have PEFT build its layers; the same seed and weights give the same tensors.

    Args:
        blueprint: what to build.
        seed: of everything that is drawn.
        weights: the values of some modules' tensors, in the order of ``base_tensors``; all
            others are zero.

    Returns:
        PEFT's layers by path.

    Raises:
        RefusedError: PEFT refuses a module or an option, or changes the weights.
    """
    given = weights or {}
    filled = {path: _filled(m, given.get(path)) for path, m in blueprint.modules.items()}
    before = {path: [t.clone() for t in given[path]] for path in given}
    names = "|".join(re.escape(path) for path in filled)
    config = configuration(blueprint.method, blueprint.options, f"(?:{names})")
    tree = _tree(filled)
    with seeded(seed):
        try:
            tuner(config)(tree, config, adapter_name=ADAPTER)
        except Exception as error:
            raise _refused(blueprint, error) from None
    for path, old in before.items():
        _check_same(blueprint, path, old, filled[path])
    return {path: _layer(blueprint, tree, path) for path in filled}


def base_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Give the tensors of a module by name, parameters first."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def added(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Give name and tensor of everything that a layer of PEFT has beside the module itself.

    Tensors in plain dictionaries count too: PEFT does not save them, as it computes them anew.
    """
    every = (*layer.named_parameters(), *layer.named_buffers(), *_in_dictionaries(layer))
    return ((name, tensor) for name, tensor in every if not name.startswith(f"{BASE}."))


def dictionaries(module: nn.Module) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Give the attributes of one module that are dictionaries of tensors."""
    for name, value in vars(module).items():
        plain = name not in ("_parameters", "_buffers", "_modules") and isinstance(value, dict)
        if plain and value and all(isinstance(one, Tensor) for one in value.values()):
            yield name, value


def _in_dictionaries(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, module in layer.named_modules():
        for name, held in dictionaries(module):
            for key, tensor in held.items():
                yield f"{path}.{name}.{key}" if path else f"{name}.{key}", tensor


def _filled(module: nn.Module, weights: Sequence[Tensor] | None) -> nn.Module:
    """Give a module in memory; without values all are one and the same zero."""
    copy = twin(module)
    for number, (name, tensor) in enumerate(base_tensors(copy).items()):
        zero = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        values = zero if weights is None else weights[number].clone()
        path, _, leaf = name.rpartition(".")
        holder: nn.Module = copy.get_submodule(path)
        if leaf in holder._parameters:
            holder._parameters[leaf] = nn.Parameter(values, requires_grad=False)
        else:
            holder._buffers[leaf] = values
    return copy


def _tree(modules: Mapping[str, nn.Module]) -> nn.Module:
    """Give a module that holds modules at their paths and nothing else."""
    root = nn.Module()
    for path, module in modules.items():
        *parents, leaf = path.split(".")
        holder = root
        for name in parents:
            if name not in holder._modules:
                holder.add_module(name, nn.Module())
            holder = holder.get_submodule(name)
        holder.add_module(leaf, module)
    return root


def _layer(blueprint: Blueprint, tree: nn.Module, path: str) -> nn.Module:
    """Find the layer that PEFT put at a path, all of its state in tensors that it names."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer: nn.Module = tree.get_submodule(path)
    if not issubclass(type(layer), BaseTunerLayer):
        raise _refused(blueprint, ValueError(f"it left {path} as it is"))
    hidden = [name for one in layer.modules() for name in _hidden(one)]
    if hidden:
        raise _refused(blueprint, ValueError(f"it keeps values in {hidden[0]}, which is not saved"))
    return layer


def _hidden(module: nn.Module) -> Iterator[str]:
    """Give the attributes of a module that hold tensors and are no dictionary of them alone."""
    known = {"_parameters", "_buffers", "_modules", *(name for name, _ in dictionaries(module))}
    for name, value in vars(module).items():
        inside = value.values() if isinstance(value, dict) else [value]
        if name not in known and any(isinstance(one, Tensor) for one in inside):
            yield name


def _check_same(blueprint: Blueprint, path: str, old: Sequence[Tensor], module: nn.Module) -> None:
    now = base_tensors(module).values()
    if not all(torch.equal(a, b) for a, b in zip(old, now, strict=True)):
        raise _refused(blueprint, ValueError(f"it rewrites the weights of {path}"))


def _refused(blueprint: Blueprint, error: Exception) -> RefusedError:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return RefusedError(
        f"peft: {blueprint.method}", "modules and options that PEFT can build", text,
        "mend `options:`, or select other modules",
    )  # fmt: skip
