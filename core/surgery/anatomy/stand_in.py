"""Run a model on meta without copying it: its tensors are put back afterwards, the same objects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from surgery.anatomy.extended import own_tensors, plain_class


@contextmanager
def on_meta(model: nn.Module) -> Iterator[None]:
    """Put meta tensors in place of a model's tensors, in eval mode; ties hold.

    Extended modules have the class and the tensors that they had before.
    """
    twins: dict[int, Tensor] = {}
    with untouched(model):
        for module in list(model.modules()):
            module.training = False
            for name in own_tensors(module):
                module._parameters.pop(name, None)
            if (plain := plain_class(module)) is not type(module):
                module.__class__ = plain
            for table in (module._parameters, module._buffers):
                _replace(table, twins)
        yield


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put back what a forward leaves on modules: hooks, as transformers does, and attributes.

    Values of tensors that are written to in place, and of lists, are not put back.
    """
    before = [(module, type(module), vars(module).copy()) for module in model.modules()]
    tables = [_contents(own) for _, _, own in before]
    try:
        yield
    finally:
        for (module, kind, own), contents in zip(before, tables, strict=True):
            if type(module) is not kind:
                module.__class__ = kind
            restore_table(vars(module), own)
            for table, held in contents:
                restore_table(table, held)


def _replace(table: Any, twins: dict[int, Tensor]) -> None:
    for name, tensor in table.items():
        if tensor is not None and not tensor.is_meta:
            table[name] = twins.setdefault(id(tensor), _twin(tensor))


def _twin(tensor: Tensor) -> Tensor:
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


_NOTHING: Mapping[Any, Any] = {}


def _contents(own: dict[str, Any]) -> list[tuple[dict[Any, Any], Mapping[Any, Any]]]:
    """Give the mappings among a module's attributes, each with what it holds: mostly nothing."""
    return [
        (value, dict(value) if value else _NOTHING)
        for value in own.values()
        if type(value) in (dict, OrderedDict)
    ]


def restore_table(table: Any, before: Mapping[Any, Any]) -> None:
    """Give a table its entries back, in their order."""
    if table or before:
        table.clear()
        table.update(before)


def twin(model: nn.Module, keep: Iterable[Any] = ()) -> nn.Module:
    """Give a copy of a model whose tensors are on meta; no value is copied and ties hold.

    Args:
        model: the model.
        keep: objects that the copy goes on to share, such as its configuration.
    """
    memo: dict[int, Any] = {id(one): one for one in keep}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for tensor in table.values():
                if tensor is not None and id(tensor) not in memo:
                    memo[id(tensor)] = _twin(tensor)
    return deepcopy(model, memo)
