"""Small steps of placing and taking back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from torch import Tensor, nn

from surgery.anatomy.extended import EXTENSIONS
from surgery.operate.edits import Derive, Extend, Keep, Value

Undo: TypeAlias = Callable[[], object]
"""Takes one small step back."""


def sources(value: Value) -> tuple[str, ...]:
    """Give the names of the tensors that a value is made of."""
    if isinstance(value, Keep):
        return (value.name,)
    return value.sources if isinstance(value, Derive) else ()


def detach(module: nn.Module, cls: type[nn.Module], table: dict[str, Extend]) -> None:
    """Give a module its class and its extensions back."""
    module.__class__ = cls
    if table:
        module.__dict__[EXTENSIONS] = table
    else:
        del module.__dict__[EXTENSIONS]


def restore_table(table: dict[str, Any], before: dict[str, Any]) -> None:
    """Give a table its entries back, in their order."""
    table.clear()
    table.update(before)


def restore_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    """Give modules their modes back."""
    for module, mode in modes:
        module.training = mode


def holders_of_tensor(model: nn.Module, tensor: Tensor) -> Iterator[tuple[nn.Module, str]]:
    """Give every place that holds a tensor: module and attribute."""
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, held in table.items():
                if held is tensor:
                    yield module, name


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


def set_child(parent: nn.Module, leaf: str, child: nn.Module | None) -> Undo:
    """Put a module below another, or take it away."""
    table: dict[str, Any] = parent._modules
    before = dict(table)
    if child is None:
        del table[leaf]
    else:
        table[leaf] = child
    return lambda: restore_table(table, before)


def set_tensor(module: nn.Module, leaf: str, tensor: Tensor) -> Undo:
    """Put another tensor in the place of one."""
    table: dict[str, Any] = module._buffers if leaf in module._buffers else module._parameters
    before = table[leaf]
    table[leaf] = tensor
    return lambda: table.__setitem__(leaf, before)


def set_attribute(owner: Any, leaf: str, value: Any) -> Undo:
    """Set an attribute; undoing it takes away one that was not there."""
    before, had = getattr(owner, leaf, None), leaf in vars(owner)
    setattr(owner, leaf, value)
    if leaf in vars(owner) and not had:
        return lambda: delattr(owner, leaf)
    return lambda: setattr(owner, leaf, before)
