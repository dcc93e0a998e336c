"""What an operation did to the base, as far as an adapter can carry it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from surgery.anatomy.extended import EXTENSIONS
from surgery.errors import RefusedError
from surgery.operate.edits import (
    Place,
    Remove,
    Rewrite,
    SetAttribute,
    SetConfig,
    SetTrainable,
)
from surgery_plugins.surgeries.freeze import RowSettings
from surgery_plugins.surgeries.lora.branch import Branch
from surgery_plugins.surgeries.untie import Untie

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.journal import Journal
    from surgery.operate.operation import Operation
    from surgery.operate.plan import Plan


def trained_whole(operation: Operation, journal: Journal) -> list[str]:
    """Give the base's tensors that an adapter has to carry: unfrozen, trained or rewritten ones.

    Raises:
        RefusedError: the operation changed what no adapter can change.
    """
    plan = operation.plan
    _check_structure(plan)
    _check_extensions(operation.patient.model)
    flags = {edit.name: edit.trainable for edit in plan.edits_of(SetTrainable)}
    names = [name for name, trainable in flags.items() if trainable]
    names += [n for n in _rewritten(plan) if n not in _left(operation.patient.model)]
    known = {alias for row in plan.after for alias in (row.name, *row.aliases)}
    return [n for n in dict.fromkeys([*names, *journal.trained]) if n in known]


def _left(model: nn.Module) -> set[str]:
    """Give the weights of which adapters took a part, so that they are what is left."""
    from surgery_plugins.surgeries.lora.adapters import branches

    return {f"{path}.{branch.leaf}" for path, _, branch in branches(model) if branch.residual}


def _rewritten(plan: Plan) -> Iterator[str]:
    """Give the tensors with other values of the same shape."""
    before = {name: row.shape for row in plan.before for name in (row.name, *row.aliases)}
    for edit in plan.edits_of(Rewrite):
        if before.get(edit.name) != edit.shape:
            raise _cannot(
                edit.name, f"another shape: {before.get(edit.name)} became {edit.shape}",
                "resize the base, save it, and export an adapter of that",
            )  # fmt: skip
        yield edit.name


def _check_structure(plan: Plan) -> None:
    for step in plan.steps:
        if isinstance(step.step.surgery, Untie):
            continue
        for edit in step.edits:
            if isinstance(edit, Place | Remove):
                raise _cannot(edit.path, f"a module that {step.step.surgery.name} exchanged")
            if isinstance(edit, SetAttribute) or (
                isinstance(edit, SetConfig) and edit.of == "config"
            ):
                raise _cannot(edit.name, f"a setting that {step.step.surgery.name} changed")


def _check_extensions(model: nn.Module) -> None:
    for path, module in model.named_modules():
        for name, extend in module.__dict__.get(EXTENSIONS, {}).items():
            known = isinstance(extend.settings, Branch | RowSettings)
            if not known and not extend.behaviour().transparent:
                raise _cannot(path, f"the extension {name}")


def _cannot(where: str, what: str, instead: str = "save the whole model") -> RefusedError:
    return RefusedError(f"{where} (peft)", "a change that an adapter can carry", what, instead)
