"""The one writer: places edits on a patient, and takes every one of them back exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import singledispatchmethod
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from surgery.anatomy.tree import paths_of
from surgery.errors import ConflictError, SurgeryError, did_you_mean
from surgery.operate.behaviour import HeldInEval
from surgery.operate.dtypes import dtype_of
from surgery.operate.edits import (
    AddTensor,
    ChangeTokenizer,
    Detach,
    DropTensor,
    Edit,
    Extend,
    HoldEval,
    NewTensor,
    Place,
    Remove,
    Rewrite,
    SetAttribute,
    SetConfig,
    SetTrainable,
    Value,
)
from surgery.operate.extending import attach, take
from surgery.operate.holders import (
    as_held,
    drop_tensor,
    holders_of_module,
    holders_of_tensor,
    owner_below,
    owner_of,
    restore_modes,
    set_attribute,
    set_child,
    set_tensor,
    sources,
    tensors_with_values,
)
from surgery.operate.patient import Patient
from surgery.operate.slots import Base, Origin, Slot
from surgery.operate.table import named_tensors, table_of


class Transaction:
    """Place edits on one patient; new tensors stay on meta until they are filled.

    Attributes:
        patient: what is operated on.
        slots: every tensor added or changed, in order of placing.
        reshaped: True where modules or shapes changed, so that the anatomy must be read anew.
        overwritten: names of the base's tensors that got the values of a training.
        base: the patient's tensors as they were: name, tensor, and whether it is persistent.
        before: the table of them.
    """

    def __init__(self, patient: Patient) -> None:
        self.patient = patient
        self.slots: list[Slot] = []
        self.reshaped = False
        self.overwritten: list[str] = []
        self._step = 0
        self._undo: list[Callable[[], object]] = []
        self._placed: dict[int, tuple[Tensor, Slot]] = {}
        self._modules: dict[str, nn.Module] = {}
        self._forget()
        self.base = list(named_tensors(patient.model))
        self.before = table_of(self.base)

    def place(self, edits: Iterable[Edit], step: int) -> None:
        """Place the edits of one step, in order.

        Raises:
            SurgeryError: an edit names something that is not there.
        """
        self._step, place = step, self._place  # a descriptor, which is slow to look up
        for edit in edits:
            place(edit)

    def rollback(self) -> None:
        """Take back everything that was placed; the patient is then exactly as before."""
        while self._undo:
            self._undo.pop()()
        self._placed.clear()
        self.slots.clear()

    def origin(self, name: str) -> Origin:
        """Find a tensor by dotted name: what it is now, a slot or a tensor of the base."""
        holder, leaf = self._holder(name)
        tensor: Tensor | None = holder._parameters.get(leaf)
        tensor = holder._buffers.get(leaf) if tensor is None else tensor
        if tensor is None:
            raise SurgeryError(name, "the name of a tensor", "no such tensor", self._near(name))
        placed = self._placed.get(id(tensor))
        return placed[1] if placed else Base(name, tensor)

    def overwrite(self, name: str, values: Tensor) -> None:
        """Give a tensor of the base the values that training gave it; undo knows the old."""
        holder, leaf = self._holder(name)
        table: dict[str, Any] = holder._buffers if leaf in holder._buffers else holder._parameters
        tensor = table[leaf]
        before = tensor.detach().clone()
        tensor.data.copy_(values)
        self.overwritten.append(name)
        self._undo.append(lambda: tensor.data.copy_(before))

    @singledispatchmethod
    def _place(self, edit: Edit) -> None:
        raise TypeError(f"not an edit: {edit!r}")

    @_place.register
    def _extend(self, edit: Extend) -> None:
        module = self._module(edit.path)
        self._undo.append(attach(module, edit, edit.behaviour()))
        device = self._device_near(module)
        for name, new in edit.tensors.items():
            self._add(module, name, f"{edit.path}.{name}", new, device)
        for name, other in edit.shares.items():
            self._share(module, name, other)

    @_place.register
    def _detach(self, edit: Detach) -> None:
        self._undo.append(take(self._module(edit.path), edit.path, edit.name))

    @_place.register
    def _insert(self, edit: AddTensor) -> None:
        module, leaf = self._holder(edit.name)
        self._add(module, leaf, edit.name, edit.tensor, self._device_near(module))
        self.reshaped = True

    @_place.register
    def _drop(self, edit: DropTensor) -> None:
        self.origin(edit.name)
        self._undo.append(drop_tensor(*self._holder(edit.name)))
        self.reshaped = True

    def _add(
        self, module: nn.Module, leaf: str, name: str, new: NewTensor, device: Any = None
    ) -> None:
        if leaf in module._parameters or leaf in module._buffers:
            raise ConflictError(name, "a free name", "a tensor of that name")
        slot = self._slot(name, new.shape, new.dtype, new.value)
        empty = torch.empty(new.shape, dtype=dtype_of(new.dtype), device="meta")
        slot.trainable, slot.buffer = new.trainable and not new.buffer, new.buffer
        slot.device = device
        table: dict[str, Any] = module._buffers if new.buffer else module._parameters
        table[leaf] = empty if new.buffer else nn.Parameter(empty, requires_grad=new.trainable)
        self._register(slot, table[leaf], [(module, leaf)])
        self._undo.append(lambda: table.pop(leaf))

    def _share(self, module: nn.Module, leaf: str, other: str) -> None:
        holder, name = self._holder(other)
        shared = holder._parameters[name]
        module._parameters[leaf] = shared
        placed = self._placed.get(id(shared))
        if placed:
            placed[1].holders.append((module, leaf))
        self._undo.append(lambda: module._parameters.pop(leaf))

    @_place.register
    def _put(self, edit: Place) -> None:
        parent, leaf = self._holder(edit.path)
        old = parent._modules.get(leaf)
        held = None if old is None else holders_of_module(self.patient.model, old)
        holders = held or [(parent, leaf)]
        slots = list(self._slots_of(edit))
        device = self._device_near(*(m for m in (old, parent) if m is not None))
        for slot, tensor, where in slots:
            slot.device = device
            self._register(slot, tensor, where)
        for module, name in holders:
            self._undo.append(set_child(module, name, edit.module))
        self._reread()

    def _slots_of(self, edit: Place) -> Iterator[tuple[Slot, Tensor, list[tuple[nn.Module, str]]]]:
        for tensor, names, holders in tensors_with_values(edit):
            full = f"{edit.path}.{names[0]}"
            dtype = str(tensor.dtype).removeprefix("torch.")
            slot = self._slot(full, tuple(tensor.shape), dtype, edit.values[names[0]])
            slot.buffer = not isinstance(tensor, nn.Parameter)
            trainable = edit.trainable is None or names[0] in edit.trainable
            slot.trainable = trainable and not slot.buffer
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(slot.trainable)
            yield slot, tensor, holders

    @_place.register
    def _remove(self, edit: Remove) -> None:
        for parent, leaf in holders_of_module(self.patient.model, self._module(edit.path)):
            self._undo.append(set_child(parent, leaf, None))
        self._reread()

    @_place.register
    def _rewrite(self, edit: Rewrite) -> None:
        old = self.origin(edit.name)
        holder, leaf = self._holder(edit.name)
        buffer = leaf in holder._buffers
        tensor: Any = holder._buffers[leaf] if buffer else holder._parameters[leaf]
        slot = self._slot(edit.name, edit.shape, edit.dtype, edit.value)
        slot.trainable, slot.buffer = tensor.requires_grad, buffer
        slot.device = old.device if isinstance(old, Slot) else tensor.device
        empty: Tensor = torch.empty(edit.shape, dtype=dtype_of(edit.dtype), device="meta")
        empty = empty if buffer else nn.Parameter(empty, requires_grad=tensor.requires_grad)
        holders = list(holders_of_tensor(self._modules.values(), tensor))
        self._register(slot, empty, holders)
        for module, name in holders:
            self._undo.append(set_tensor(module, name, empty))
        for name, value in edit.attributes.items():
            self._undo.append(set_attribute(*self._holder(name), value))
        self.reshaped |= tuple(tensor.shape) != edit.shape

    @_place.register
    def _train(self, edit: SetTrainable) -> None:
        holder, leaf = self._holder(edit.name)
        parameter = holder._parameters.get(leaf)
        if parameter is None:
            raise SurgeryError(
                edit.name, "the name of a parameter", "no such parameter", self._near(edit.name)
            )
        before = parameter.requires_grad
        parameter.requires_grad_(edit.trainable)
        placed = self._placed.get(id(parameter))
        if placed:
            placed[1].trainable = edit.trainable
        self._undo.append(lambda: parameter.requires_grad_(before))

    @_place.register
    def _hold(self, edit: HoldEval) -> None:
        module = self._module(edit.path)
        modes = [(child, child.training) for child in module.modules()]
        self._undo.append(lambda: restore_modes(modes))
        for child in module.modules():
            if not isinstance(child, HeldInEval):
                held = Extend(edit.path, "held_in_eval", HeldInEval.here)
                self._undo.append(attach(child, held, HeldInEval))
        module.train(module.training)

    @_place.register
    def _configure(self, edit: SetConfig) -> None:
        owner, leaf = owner_of(edit, self.patient)
        self._undo.append(set_attribute(owner, leaf, as_held(owner, leaf, edit.value)))

    @_place.register
    def _set(self, edit: SetAttribute) -> None:
        self._undo.append(set_attribute(*owner_below(self._modules, edit.name), edit.value))

    @_place.register
    def _tokenize(self, edit: ChangeTokenizer) -> None:
        patient, before = self.patient, self.patient.tokenizer
        patient.tokenizer = edit.change(before)
        self._undo.append(lambda: setattr(patient, "tokenizer", before))
        if patient.processor is not None:
            self._undo.append(set_attribute(patient.processor, "tokenizer", patient.tokenizer))

    def _slot(self, name: str, shape: tuple[int, ...], dtype: str, value: Value) -> Slot:
        return Slot(name, shape, dtype, value, self._step, tuple(map(self.origin, sources(value))))

    def _register(self, slot: Slot, tensor: Tensor, holders: list[tuple[nn.Module, str]]) -> None:
        slot.holders, slot.placeholder = holders, tensor
        self.slots.append(slot)
        self._placed[id(tensor)] = (tensor, slot)

    def _module(self, path: str) -> nn.Module:
        module = self._modules.get(path)
        if module is None:
            raise SurgeryError(path, "the path of a module", "no such module", self._near(path))
        return module

    def _holder(self, name: str) -> tuple[nn.Module, str]:
        parent, _, leaf = name.rpartition(".")
        return self._module(parent), leaf

    def _near(self, name: str) -> str:
        return did_you_mean(name, self._modules)

    def _reread(self) -> None:
        self._forget()
        self.reshaped = True
        self._undo.append(self._forget)

    def _forget(self) -> None:
        self._modules = dict(paths_of(self.patient.model))

    def _device_near(self, *modules: nn.Module) -> torch.device | None:
        for module in (*modules, self.patient.model):
            for tensor in chain(module._parameters.values(), module.parameters()):
                if tensor is not None:
                    placed = self._placed.get(id(tensor))
                    return placed[1].device if placed else tensor.device
        return None
