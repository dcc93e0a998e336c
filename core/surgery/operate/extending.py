"""Add an extension to a module, and take one away: its class, and the table of extensions."""

from __future__ import annotations

from typing import Any

from torch import nn

from surgery.anatomy.extended import EXTENSIONS, bare_class
from surgery.anatomy.stand_in import restore_table
from surgery.errors import ConflictError, SurgeryError, did_you_mean
from surgery.operate.behaviour import Behaviour, behaving
from surgery.operate.edits import Extend
from surgery.operate.holders import Undo

_OURS = "_surgery_"
"""How the attributes begin that extensions and their behaviours leave on a module."""


def attach(module: nn.Module, edit: Extend, behaviour: type[Behaviour]) -> Undo:
    """Give a module an extension; its tensors are placed apart.

    Raises:
        ConflictError: it has one of that name.
    """
    table = module.__dict__.get(EXTENSIONS, {})
    if edit.name in table:
        raise ConflictError(
            edit.path, f"one extension named {edit.name!r}", "two", "give the second a name"
        )
    return _become(module, behaving(behaviour, type(module)), {**table, edit.name: edit})


def take(module: nn.Module, path: str, name: str) -> Undo:
    """Take an extension away from a module, with its tensors; the others stay.

    Args:
        module: the module.
        path: its dotted path, for errors.
        name: the extension's name.

    Raises:
        SurgeryError: the module has no such extension.
    """
    table: dict[str, Extend] = module.__dict__.get(EXTENSIONS, {})
    if name not in table:
        raise SurgeryError(path, f"an extension {name!r}", "none", did_you_mean(name, table))
    others = {key: edit for key, edit in table.items() if key != name}
    cls = bare_class(module)
    for edit in others.values():
        cls = behaving(edit.behaviour(), cls)
    kept = {leaf for edit in others.values() for leaf in (*edit.tensors, *edit.shares)}
    gone = {*table[name].tensors, *table[name].shares} - kept
    steps = [_without(held, gone) for held in (module._parameters, module._buffers)]
    steps.append(_become(module, cls, others))

    def undo() -> None:
        while steps:
            steps.pop()()

    return undo


def _become(module: nn.Module, cls: type[nn.Module], table: dict[str, Extend]) -> Undo:
    """Give a module a class and a table of extensions."""
    before = type(module), module.__dict__.get(EXTENSIONS, {})
    _set(module, cls, table)
    return lambda: _set(module, *before)


def _set(module: nn.Module, cls: type[nn.Module], table: dict[str, Extend]) -> None:
    object.__setattr__(module, "__class__", cls)  # without the search of Module.__setattr__
    if table:
        module.__dict__[EXTENSIONS] = table
        return
    for name in [name for name in vars(module) if name.startswith(_OURS)]:
        del module.__dict__[name]  # what behaviours noted there goes with the last of them


def _without(table: Any, names: set[str]) -> Undo:
    """Take entries out of a module's table of tensors."""
    before = dict(table)
    for name in names & set(table):
        del table[name]
    return lambda: restore_table(table, before)
