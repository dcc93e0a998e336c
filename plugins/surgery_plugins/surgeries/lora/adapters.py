"""Switch adapters while a model runs: turn them off and on, choose some, scale them.

A switch replaces the adapter's settings on its module, so undo and copies know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from surgery.anatomy.extended import EXTENSIONS
from surgery.errors import SelectionError, did_you_mean
from surgery_plugins.surgeries.lora.branch import Branch

if TYPE_CHECKING:
    from torch import nn


def branches(model: nn.Module) -> Iterator[tuple[str, nn.Module, Branch]]:
    """Give every adapter of a model: path and module, and the branch."""
    for path, module in model.named_modules():
        for extend in module.__dict__.get(EXTENSIONS, {}).values():
            if isinstance(extend.settings, Branch):
                yield path, module, extend.settings


def adapter_names(model: nn.Module) -> tuple[str, ...]:
    """Give the names of a model's adapters, in the order in which its modules hold them."""
    return tuple(dict.fromkeys(branch.adapter for _, _, branch in branches(model)))


def enable(model: nn.Module, *adapters: str) -> None:
    """Turn adapters on; all of them where none is named.

    Raises:
        SelectionError: the model has no adapter of such a name.
    """
    _switch(model, _known(model, adapters), lambda branch: replace(branch, active=True))


def disable(model: nn.Module, *adapters: str) -> None:
    """Turn adapters off; all of them where none is named.

    Raises:
        SelectionError: the model has no adapter of such a name.
    """
    _switch(model, _known(model, adapters), lambda branch: replace(branch, active=False))


def select(model: nn.Module, adapters: Iterable[str]) -> None:
    """Turn some adapters on and all others off.

    Raises:
        SelectionError: the model has no adapter of such a name.
    """
    chosen = frozenset(adapters)
    if chosen:
        _known(model, chosen)
    _switch(model, adapter_names(model), lambda b: replace(b, active=b.adapter in chosen))


def set_scale(model: nn.Module, name: str, factor: float) -> None:
    """Multiply an adapter's product ``B A``; 1 is as trained, 0 is off.

    Raises:
        SelectionError: the model has no adapter of that name.
    """
    _switch(model, _known(model, (name,)), lambda branch: replace(branch, factor=factor))


def set_fused(model: nn.Module, on: bool) -> None:
    """Run linear layers and their adapters as one function, or plainly, as autograd sees them.

    One function is the default, and faster; the plain form is for what cannot look into one,
    such as ``torch.func.vmap``.
    """
    _switch(model, adapter_names(model), lambda branch: replace(branch, fused=on))


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Turn all adapters off for a while: the model answers as its base does."""
    before = [(m, m.__dict__[EXTENSIONS]) for m in model.modules() if EXTENSIONS in m.__dict__]
    _switch(model, adapter_names(model), lambda branch: replace(branch, active=False))
    try:
        yield
    finally:
        for module, table in before:
            module.__dict__[EXTENSIONS] = table


def _known(model: nn.Module, adapters: Iterable[str]) -> tuple[str, ...]:
    """Give the named adapters, or all, and refuse a name that the model does not have."""
    known = adapter_names(model)
    for name in adapters:
        if name not in known:
            raise SelectionError(
                "adapter", "the name of an adapter", repr(name), did_you_mean(name, known)
            )
    return tuple(adapters) or known


def _switch(model: nn.Module, adapters: Iterable[str], change: Callable[[Branch], Branch]) -> None:
    chosen = frozenset(adapters)

    def changed(extend: Any) -> Any:
        branch = extend.settings
        mine = isinstance(branch, Branch) and branch.adapter in chosen
        return replace(extend, settings=change(branch)) if mine else extend

    for module in model.modules():
        table = module.__dict__.get(EXTENSIONS)
        if table:
            module.__dict__[EXTENSIONS] = {name: changed(table[name]) for name in table}
