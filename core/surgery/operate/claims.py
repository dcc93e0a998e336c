"""Claims: what each step touches, so that two steps that disagree are found before any cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import singledispatch
from typing import Any, TypeAlias

from surgery.errors import ConflictError
from surgery.operate.edits import (
    AddTensor,
    DropTensor,
    Edit,
    Extend,
    Place,
    Remove,
    Rewrite,
    SetAttribute,
    SetConfig,
    SetTrainable,
)
from surgery.operate.step import Step

Claim: TypeAlias = tuple[str, str, Any]
"""Kind, name, and the value claimed; the value ``READ`` says that the shape is relied on."""

READ = object()


@singledispatch
def claims_of(edit: Edit) -> Iterator[Claim]:
    """Give what one edit claims."""
    return iter(())


@claims_of.register
def _(edit: Extend) -> Iterator[Claim]:
    for name in edit.reads:
        yield "tensor", name, READ
    for leaf, new in edit.tensors.items():
        if not new.buffer:
            yield "trainable", f"{edit.path}.{leaf}", new.trainable


@claims_of.register(Rewrite)
@claims_of.register(AddTensor)
@claims_of.register(DropTensor)
def _(edit: Rewrite | AddTensor | DropTensor) -> Iterator[Claim]:
    yield "tensor", edit.name, object()


@claims_of.register
def _(edit: SetTrainable) -> Iterator[Claim]:
    yield "trainable", edit.name, edit.trainable


@claims_of.register
def _(edit: SetConfig) -> Iterator[Claim]:
    yield "config", edit.name, edit.value


@claims_of.register
def _(edit: SetAttribute) -> Iterator[Claim]:
    yield "attribute", edit.name, edit.value


@claims_of.register(Place)
@claims_of.register(Remove)
def _(edit: Place | Remove) -> Iterator[Claim]:
    yield "module", edit.path, object()


class Claims:
    """Collect the claims of a recipe's steps and refuse the first that contradicts another."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], tuple[Step, Any]] = {}

    def add(self, step: Step, edits: Iterable[Edit]) -> None:
        """Add the claims of one step.

        Raises:
            ConflictError: an earlier step claimed the same thing with another value.
        """
        for edit in edits:
            if isinstance(edit, Place | Remove):
                self._check_below(step, edit.path)
            for kind, name, value in claims_of(edit):
                self._add(step, (kind, name), value)

    def _add(self, step: Step, key: tuple[str, str], value: Any) -> None:
        earlier, held = self._held.setdefault(key, (step, value))
        if earlier is step or value is READ:
            return
        if held != value and not _may_override(step, earlier):
            raise _conflict(step, earlier, *key)
        self._held[key] = (step, value)

    def _check_below(self, step: Step, path: str) -> None:
        for (kind, name), (earlier, _) in self._held.items():
            below = kind != "config" and (name == path or name.startswith(path + "."))
            if below and earlier is not step and not _may_override(step, earlier):
                raise _conflict(step, earlier, kind, name)


def _may_override(step: Step, earlier: Step) -> bool:
    return step.overlap or bool({earlier.surgery.name, "*"} & step.surgery.narrows)


_WORDS = {
    "trainable": "the trainable flag of {}",
    "tensor": "the shape and values of {}",
    "module": "the module {}",
    "config": "the configuration value {}",
    "attribute": "the attribute {}",
}


def _conflict(step: Step, earlier: Step, kind: str, name: str) -> ConflictError:
    what = _WORDS[kind].format(name)
    return ConflictError(
        f"{step.where} ({step.surgery.name})",
        f"{what} to be free",
        f"a claim of {earlier.where} ({earlier.surgery.name})",
        "change the order, exclude it from one of the two, or write `overlap: true` in "
        f"{step.where} to say that it may override the earlier step",
    )
