"""What a configuration builds where a stack has other layers, and whether it is what was meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from surgery.errors import RefusedError
from surgery.operate.edits import Edit, SetAttribute
from surgery_plugins.surgeries.fresh.build import build
from surgery_plugins.surgeries.fresh.difference import difference, is_plain
from surgery_plugins.surgeries.fresh.follow import rewrite, table_value
from surgery_plugins.surgeries.fresh.settings import changed, config_edits, parts
from surgery_plugins.surgeries.layers.follow import check_saved, settings_for
from surgery_plugins.surgeries.layers.numbers import is_number
from surgery_plugins.surgeries.layers.order import Order
from surgery_plugins.surgeries.layers.stages import stage_edits

if TYPE_CHECKING:
    from surgery.operate.patient import Patient


@dataclass(frozen=True)
class Built:
    """A patient as its configuration builds it, before and after.

    Attributes:
        patient: what is operated on.
        container: path of the stack.
        order: its layers afterwards.
        config: the changed configuration.
        before: the model of the present configuration, parameters on meta.
        after: the model of the changed one.
    """

    patient: Patient
    container: str
    order: Order
    config: Any
    before: nn.Module
    after: nn.Module

    def layer(self, place: int, copied: nn.Module) -> nn.Module:
        """Give the layer for a place: the copied one with its new numbers.

        Where the class builds other tensors there, such as a table that the first layer alone
        has, the class's own layer is taken.

        Args:
            place: number of the place.
            copied: a copy on meta of the old layer; changed in place.

        Raises:
            RefusedError: the configuration would build another layer at that place.
        """
        meant, source = self._new[place], self.order[place].source
        if _tensors(meant) != _tensors(self._old[source]):
            return self._bound(place, meant, copied)
        for path, name, old, new in _differing(self._old[source], meant):
            if not is_number(old, new, place - source):
                raise self._otherwise(place, path, name, old, new)
            setattr(copied.get_submodule(path), name, new)
        return copied

    def source(self, place: int, leaf: str) -> int:
        """Give the old layer that a tensor of a new one comes from: the one that moved, or the
        one at that place where the tensor belongs to the place.
        """
        source = self.order[place].source
        return source if leaf in _tensors(self._old[source]) else place

    def _bound(self, place: int, meant: nn.Module, copied: nn.Module) -> nn.Module:
        """Give the class's own layer for a place, whose tensors moved there or belong there."""
        for path, name, old, new in _other_classes(self._old[self.order[place].source], meant):
            raise self._otherwise(place, path, name, old, new)
        moved, stays = _tensors(copied), _tensors(self._old[place]) if self._has(place) else {}
        for name, shape in _tensors(meant).items():
            if moved.get(name, stays.get(name)) != shape:
                raise RefusedError(
                    f"layers: {self.container}", f"{name} with shape {shape} for layer {place}",
                    f"none in old layer {self.order[place].source}",
                    "say under `config:` what makes it of another kind, or move others",
                )  # fmt: skip
        for path, _, kind, other in _other_classes(meant, copied):
            raise RefusedError(
                f"layers: {self.container}.{place}.{path}", f"a {kind}, as its class builds it",
                other, "write this step before the one that changed it",
            )  # fmt: skip
        self._share(meant)
        return _on_meta(meant, copied)

    def _has(self, place: int) -> bool:
        return place < len(self._old)

    def _share(self, layer: nn.Module) -> None:
        """Let a layer hold the patient's own configurations."""
        for module in layer.modules():
            for name, value in vars(module).items():
                if id(value) in self._configs:
                    module.__dict__[name] = self._configs[id(value)]

    @cached_property
    def _configs(self) -> dict[int, Any]:
        """The patient's configurations, by the identity of those that were built anew."""
        ours = dict(parts(self.patient.config))
        found = {id(part): ours[key] for key, part in parts(self.after.config)}
        for _, new, live in private_configs(self).values():
            found.setdefault(id(new), live)
        return found

    @cached_property
    def _old(self) -> list[nn.Module]:
        return list(self.before.get_submodule(self.container).children())

    @cached_property
    def _new(self) -> list[nn.Module]:
        return list(self.after.get_submodule(self.container).children())

    def _otherwise(self, place: int, path: str, name: str, old: Any, new: Any) -> RefusedError:
        where = ".".join(filter(None, (str(place), path, name)))
        return RefusedError(
            f"layers: {self.container}.{where}",
            f"{old!r}, as old layer {self.order[place].source} has it",
            f"{new!r}, which its configuration builds at that place",
            "say under `config:` which value tells it, or leave this layer where it is",
        )


def built(patient: Patient, container: str, order: Order, config: Mapping[str, Any]) -> Built:
    """Build a patient anew, as it is and with other layers.

    Raises:
        RefusedError: the configuration cannot say this, or does not describe the patient.
    """
    count = len(list(patient.model.get_submodule(container).children()))
    settings = {**settings_for(patient, container, count, order), **config}
    new = changed(patient.config, settings)
    check_saved(new, settings)
    made = Built(
        patient, container, order, new, build(patient, patient.config), build(patient, new)
    )
    _check_described(made)
    return made


def following(made: Built) -> Iterator[Edit]:
    """Give the edits outside a stack that follow from its new layers.

    Raises:
        RefusedError: a weight outside would have another shape.
    """
    yield from config_edits(made.patient.config, made.config)
    yield from stage_edits(made.patient.config, made.config)
    for path, (old, new, _) in private_configs(made).items():
        for edit in config_edits(old, new):
            yield SetAttribute(f"{path}.config.{edit.key}", edit.value)
    for model in (made.before, made.after):
        _put(model, made.container, nn.ModuleList())
    _forget_unused(made.before, made.after)
    found = difference(made.before, made.after)
    for one in found.tensors:
        if one.weight:
            raise RefusedError(
                f"layers: {one.name}", "weights that do not depend on the number of layers",
                f"shape {tuple(one.old.shape)}, which would be {tuple(one.new.shape)}",
            )  # fmt: skip
        yield rewrite(one.name, one.new, table_value(one.new), made.patient)
    for name, value in found.attributes.items():
        yield SetAttribute(name, value)


def _forget_unused(before: nn.Module, after: nn.Module) -> None:
    """Take away tables that no layer needs any longer, such as those of a kind that is gone."""
    others = dict(after.named_modules())
    for path, module in before.named_modules():
        for leaf in module._non_persistent_buffers_set & module._buffers.keys():
            if path in others and leaf not in others[path]._buffers:
                del module._buffers[leaf]


def private_configs(made: Built) -> dict[str, tuple[Any, Any, Any]]:
    """Give the configurations that modules outside the stack hold and that are no part of the
    patient's, each once, by the module's path: of the old build, of the new one, the patient's.
    """
    known = {id(part) for _, part in parts(made.patient.config)}
    before, after = dict(made.before.named_modules()), dict(made.after.named_modules())
    found: dict[str, tuple[Any, Any, Any]] = {}
    for path, module in made.patient.model.named_modules():
        held = vars(module).get("config")
        if held is None or id(held) in known or not hasattr(held, "to_dict"):
            continue
        if path in before and path in after and not path.startswith(f"{made.container}."):
            known.add(id(held))
            found[path] = (before[path].config, after[path].config, held)
    return found


def _tensors(module: nn.Module) -> dict[str, tuple[int, ...]]:
    named = (*module.named_parameters(), *module.named_buffers())
    return {name: tuple(tensor.shape) for name, tensor in named}


def _differing(old: nn.Module, new: nn.Module) -> Iterator[tuple[str, str, Any, Any]]:
    """Give path, name and both values of plain attributes that differ, classes among them."""
    yield from _other_classes(old, new)
    others = dict(new.named_modules())
    for path, module in old.named_modules():
        table = vars(others[path])
        for name in vars(module).keys() | table.keys():
            one, two = vars(module).get(name), table.get(name)
            if is_plain(one) and is_plain(two) and one != two:
                yield path, name, one, two


def _other_classes(old: nn.Module, new: nn.Module) -> Iterator[tuple[str, str, str, str]]:
    """Give the modules that both layers have, of another class in each."""
    others = dict(new.named_modules())
    for path, module in old.named_modules():
        if path in others and type(module) is not type(others[path]):
            yield path, "its class", type(module).__name__, type(others[path]).__name__


def _on_meta(layer: nn.Module, like: nn.Module) -> nn.Module:
    """Give a layer on meta, in the dtype, the mode and with the flags of another."""
    import torch

    dtypes = {n: (t.dtype, t.requires_grad) for n, t in like.named_parameters()}
    for path, module in layer.named_modules():
        module.training = like.training
        for leaf, tensor in module._parameters.items():
            if tensor is not None:
                name = f"{path}.{leaf}" if path else leaf
                dtype, trains = dtypes.get(name, next(iter(dtypes.values())))
                empty = torch.empty(tensor.shape, dtype=dtype, device="meta")
                module._parameters[leaf] = nn.Parameter(empty, requires_grad=trains)
        for leaf, buffer in module._buffers.items():
            module._buffers[leaf] = None if buffer is None else buffer.to("meta")
    return layer


def _check_described(made: Built) -> None:
    """Check that the present configuration builds the layers that are there."""
    there = list(made.patient.model.get_submodule(made.container).children())
    for number, (layer, meant) in enumerate(zip(there, made._old, strict=True)):
        if _tensors(layer) != _tensors(meant):
            odd = sorted(set(_tensors(layer).items()) ^ set(_tensors(meant).items()))[0][0]
            raise RefusedError(
                f"layers: {made.container}.{number}", "a layer as its configuration builds it",
                f"another {odd}", "write this step before the one that changed it",
            )  # fmt: skip


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    model.get_submodule(parent)._modules[leaf] = module
