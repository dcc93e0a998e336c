"""Build a stack of layers anew from the layers that are there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

from torch import Generator, Tensor, nn

from surgery.anatomy.extended import EXTENSIONS
from surgery.anatomy.stand_in import twin
from surgery.errors import RefusedError
from surgery.operate.edits import Edit, Init, Keep, Place, Value
from surgery.operate.holders import tensors_by_identity
from surgery_plugins.surgeries.fresh.build import buildable
from surgery_plugins.surgeries.layers.configured import Built, built, following
from surgery_plugins.surgeries.layers.numbers import renumber
from surgery_plugins.surgeries.layers.order import Order

if TYPE_CHECKING:
    from surgery.operate.patient import Patient


def restack(
    patient: Patient, container: str, order: Order, zero: Collection[str], config: Mapping[str, Any]
) -> Iterator[Edit]:
    """Give the edits that make a stack what it is to be, all of it at once.

    Args:
        patient: what is operated on.
        container: path of the stack.
        order: its layers afterwards.
        zero: tensors of an inserted layer that are zero, by name relative to it.
        config: values of the configuration that the recipe gives, by dotted key.

    Raises:
        RefusedError: the stack, or the configuration, cannot be made so.
    """
    old = patient.model.get_submodule(container)
    _check(patient.model, container, old)
    made = built(patient, container, order, config) if buildable(patient) else None
    if made is None and config:
        raise RefusedError("layers.config", "a configuration of transformers", "none")
    layers = [_layer(old, made, order, place) for place in range(len(order))]
    if made is None:
        renumber(list(old.children()), layers, [block.source for block in order])
    stack = _like(old, layers)
    values = dict(_values(stack, container, list(old._modules), order, zero, made))
    yield Place(container, stack, values, _trainable(stack, order))
    if made is not None:
        yield from following(made)


def zeros(tensor: Tensor, generator: Generator) -> None:
    """Fill a tensor with zeros."""
    tensor.zero_()


def _layer(old: nn.Module, made: Built | None, order: Order, place: int) -> nn.Module:
    """Give a copy on meta of the layer that is to stand at a place."""
    layer = list(old.children())[order[place].source]
    if made is None:
        return twin(layer)
    return made.layer(place, twin(layer, keep=_configs(layer)))


def _configs(module: nn.Module) -> list[Any]:
    """Give the configurations that modules hold, which copies go on to share."""
    held = (value for child in module.modules() for value in vars(child).values())
    return [value for value in held if hasattr(value, "to_dict")]


def _like(old: nn.Module, layers: list[nn.Module]) -> nn.Module:
    """Give a container as the old one, with other layers."""
    new = copy(old)
    new.__dict__["_modules"] = {str(number): layer for number, layer in enumerate(layers)}
    return new


def _values(
    stack: nn.Module,
    container: str,
    keys: list[str],
    order: Order,
    zero: Collection[str],
    made: Built | None,
) -> Iterator[tuple[str, Value]]:
    for _, names, _ in tensors_by_identity(stack):
        place, _, leaf = names[0].partition(".")
        block = order[int(place)]
        source = block.source if made is None else made.source(int(place), leaf)
        kept = Keep(f"{container}.{keys[source]}.{leaf}")
        yield names[0], Init(zeros) if block.inserted and leaf in zero else kept


def _trainable(stack: nn.Module, order: Order) -> frozenset[str]:
    """Give the parameters that train: as they did, and all of an inserted layer."""
    return frozenset(
        name
        for name, parameter in stack.named_parameters()
        if parameter.requires_grad or order[int(name.partition(".")[0])].inserted
    )


def _check(model: nn.Module, container: str, old: nn.Module) -> None:
    """Refuse a stack that cannot be taken apart.

    Raises:
        RefusedError: it says why.
    """
    where = f"layers: {container}"
    if next(old.parameters(recurse=False), None) is not None or next(old.buffers(False), None):
        raise RefusedError(where, "a list of layers", "one with tensors of its own")
    extended = [path for path, m in old.named_modules() if EXTENSIONS in m.__dict__]
    if extended:
        raise RefusedError(
            where, "layers as the base has them", f"{container}.{extended[0]}, which was extended",
            "write this step before the one that extends it",
        )  # fmt: skip
    devices = {tensor.device for tensor in old.parameters()}
    if len(devices) > 1:
        raise RefusedError(where, "layers on one device", ", ".join(map(str, devices)))
    _check_shared(model, container, old)


def _check_shared(model: nn.Module, container: str, old: nn.Module) -> None:
    """Refuse layers that share a module or a tensor with each other or with what is outside."""
    owners: dict[int, str] = {}
    inside = {id(module) for module in old.modules()}
    for path, module in model.named_modules(remove_duplicate=False):
        within = id(module) in inside and path.startswith(f"{container}.")
        owner = path.split(".")[len(container.split("."))] if within else ""
        parts = [module, *module._parameters.values(), *module._buffers.values()]
        for part in parts if path != container else ():
            if part is not None and owners.setdefault(id(part), owner) != owner:
                raise RefusedError(
                    f"layers: {container}", "layers that share nothing",
                    f"{path}, which is shared with another or holds what is",
                )  # fmt: skip
