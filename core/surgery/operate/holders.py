"""Small steps of placing and taking back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor, dtype, nn

from surgery.anatomy.stand_in import restore_table
from surgery.errors import SurgeryError
from surgery.operate.dtypes import dtype_of
from surgery.operate.edits import Derive, Keep, Place, SetConfig, Value
from surgery.operate.patient import Patient

Undo: TypeAlias = Callable[[], object]
"""Takes one small step back."""


def sources(value: Value) -> tuple[str, ...]:
    """Give the names of the tensors that a value is made of."""
    if isinstance(value, Keep):
        return (value.name,)
    return value.sources if isinstance(value, Derive) else ()


def restore_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    """Give modules their modes back."""
    for module, mode in modes:
        module.training = mode


def holders_of_tensor(
    modules: Iterable[nn.Module], tensor: Tensor
) -> Iterator[tuple[nn.Module, str]]:
    """Give every place that holds a tensor: module and attribute."""
    for module in dict.fromkeys(modules):
        for table in (module._parameters, module._buffers):
            for name, held in table.items():
                if held is tensor:
                    yield module, name


def holders_of_module(model: nn.Module, child: nn.Module) -> list[tuple[nn.Module, str]]:
    """Give every place that holds a module: the one above it, and its name there."""
    return [
        (module, name)
        for module in model.modules()
        for name, held in module._modules.items()
        if held is child
    ]


def tensors_by_identity(
    root: nn.Module,
) -> list[tuple[Tensor, list[str], list[tuple[nn.Module, str]]]]:
    """Give each tensor below a module once, with all its names and holders."""
    found: dict[int, tuple[Tensor, list[str], list[tuple[nn.Module, str]]]] = {}
    for path, module in root.named_modules():
        for table in (module._parameters, module._buffers):
            for leaf, tensor in table.items():
                if tensor is not None:
                    entry = found.setdefault(id(tensor), (tensor, [], []))
                    entry[1].append(f"{path}.{leaf}" if path else leaf)
                    entry[2].append((module, leaf))
    return list(found.values())


def tensors_with_values(
    edit: Place,
) -> list[tuple[Tensor, list[str], list[tuple[nn.Module, str]]]]:
    """Give the tensors of a module that is placed, as ``tensors_by_identity`` does.

    Raises:
        SurgeryError: one has no value, or there is a value without a tensor.
    """
    found = tensors_by_identity(edit.module)
    known = {names[0] for _, names, _ in found}
    unknown = set(edit.values) - {name for _, names, _ in found for name in names}
    missing = known - set(edit.values)
    if unknown or missing:
        raise SurgeryError(
            edit.path, "a value for every tensor", f"unknown {unknown}, missing {missing}"
        )
    return found


def set_child(parent: nn.Module, leaf: str, child: nn.Module | None) -> Undo:
    """Put a module below another, or take it away."""
    table: dict[str, Any] = parent._modules
    before = dict(table)
    if child is None:
        del table[leaf]
    else:
        table[leaf] = child
    return lambda: restore_table(table, before)


def drop_tensor(module: nn.Module, leaf: str) -> Undo:
    """Take a tensor away from a module that has it."""
    table: dict[str, Any] = module._buffers if leaf in module._buffers else module._parameters
    before = dict(table)
    del table[leaf]
    return lambda: restore_table(table, before)


def set_tensor(module: nn.Module, leaf: str, tensor: Tensor) -> Undo:
    """Put another tensor in the place of one."""
    table: dict[str, Any] = module._buffers if leaf in module._buffers else module._parameters
    before = table[leaf]
    table[leaf] = tensor
    return lambda: table.__setitem__(leaf, before)


def owner_of(edit: SetConfig, patient: Patient) -> tuple[Any, str]:
    """Give the object whose attribute an edit of a configuration sets, and the attribute.

    Raises:
        SurgeryError: the patient has no such configuration.
    """
    *parents, leaf = edit.key.split(".")
    above: Any = patient.model if edit.of == "generation_config" else patient
    for name in (edit.of, *parents):
        above = getattr(above, name, None)
    if above is None:
        raise SurgeryError(f"{edit.of}.{edit.key}", f"a patient whose {edit.of} has it", "none")
    return above, leaf


def owner_below(modules: Mapping[str, nn.Module], name: str) -> tuple[Any, str]:
    """Give the object whose attribute a dotted path names: a module, or what a module holds.

    Raises:
        SurgeryError: there is no such object.
    """
    path, _, leaf = name.rpartition(".")
    inner: list[str] = []
    while path and path not in modules:
        path, _, last = path.rpartition(".")
        inner.insert(0, last)
    found: Any = modules[path]
    for part in inner:
        found = getattr(found, part, None)
    if found is None:
        raise SurgeryError(name, "an attribute of a module", "no such module or attribute")
    return found, leaf


def as_held(owner: Any, leaf: str, value: Any) -> Any:
    """Give a JSON value as an object holds it: a dtype's name as a dtype where there is one."""
    held = isinstance(getattr(owner, leaf, None), dtype)
    return dtype_of(value) if held and isinstance(value, str) else value


def set_attribute(owner: Any, leaf: str, value: Any) -> Undo:
    """Set an attribute; undoing it takes away one that was not there."""
    had = leaf in vars(owner)  # what a property says may come from elsewhere
    before = vars(owner)[leaf] if had else getattr(owner, leaf, None)
    setattr(owner, leaf, value)
    if leaf in vars(owner) and not had:
        return lambda: delattr(owner, leaf)
    return lambda: setattr(owner, leaf, before)
