"""Take over what another tool made: operate as it did, and let every one of its tensors land."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from surgery.checkpoint.publish import publish
from surgery.checks.check import demand
from surgery.checks.invariants import finite
from surgery.errors import PatientError, Problems, SurgeryError
from surgery.flow.files import base_of
from surgery.flow.memory import Applied
from surgery.flow.prove import prove
from surgery.flow.recipe import Outcome
from surgery.flow.write import Contents, write_output
from surgery.hooks.registry import Registry
from surgery.operate.dtypes import dtype_of
from surgery.operate.fill import fill
from surgery.operate.importer import Imported, Importer, Incoming
from surgery.operate.operation import Operation, operate
from surgery.operate.patient import Patient
from surgery.operate.slots import Slot
from surgery.operate.source import Source
from surgery.operate.table import named_tensors
from surgery.recipe.steps import steps_from


def take_over(
    patient: Patient,
    imported: Imported,
    known: Registry,
    *,
    where: str,
    seed: int = 0,
    source: Source | None = None,
) -> Applied:
    """Operate on a patient as another tool did, with that tool's values.

    Args:
        patient: what to operate on; its model is changed in place.
        imported: what the other tool did.
        known: what the plugins offer.
        where: how errors name what is imported.
        seed: recorded in the journal.
        source: where the patient came from, or None for a model given from Python.

    Raises:
        Problems: a tensor has no place or another shape, or a place got no tensor.
        SurgeryError: a surgery is refused, or a check fails. The patient is then as before.
    """
    steps = steps_from(imported.steps, known, where)
    operation = operate(patient, steps, seed=seed, families=known.families())
    try:
        _land(operation, imported.tensors, where)
        checks = prove(operation, families=known.families())
        demand(checks, where)
    except BaseException:
        operation.undo()
        raise
    return Applied(operation, checks, base_of(source, known=known) if source else None, source)


def import_onto(
    source: Source,
    importer: Importer,
    folders: Sequence[Path],
    target: Path,
    known: Registry,
    *,
    force: bool = False,
) -> Outcome:
    """Load a base, take over what another tool made of it, and publish it as a checkpoint.

    Args:
        source: the base.
        importer: what reads the other tool's format.
        folders: what the other tool wrote.
        target: where to write.
        known: what the plugins offer.
        force: replace an existing output.

    Raises:
        SurgeryError: a part failed; nothing is published then.
    """
    patient = source.load()
    where = ", ".join(map(str, folders))
    imported = importer.read(folders, patient)
    applied = take_over(patient, imported, known, where=where, source=source)
    with publish(target, force=force) as folder:
        written = write_output(folder, applied.operation, applied.journal, Contents(source))
        demand(written, str(target))
    return Outcome(target, applied.plan, (*applied.checks, *written), applied.journal)


def _land(operation: Operation, tensors: Mapping[str, Incoming], where: str) -> None:
    slots = operation.slots
    problems = [*_misfits(operation, slots, tensors), *_missing(slots, tensors, where)]
    if problems:
        raise Problems(where, problems)
    names = {id(slot): name for name, slot in slots.items() if name in tensors}

    def stored(slot: Slot) -> Tensor | None:
        name = names.get(id(slot))
        return None if name is None else tensors[name].read().to(dtype_of(slot.dtype))

    fill(operation.transaction.slots, operation.seed, stored)
    changed = {name: one.read() for name, one in tensors.items() if name not in slots}
    demand([finite(changed)], where)
    for name, values in changed.items():
        operation.transaction.overwrite(name, values)


def _misfits(
    operation: Operation, slots: Mapping[str, Slot], tensors: Mapping[str, Incoming]
) -> Iterator[SurgeryError]:
    """Find tensors that have no place, or one of another shape."""
    held: dict[str, Any] = {n: tuple(t.shape) for n, t, _ in named_tensors(operation.patient.model)}
    for name, one in tensors.items():
        wanted = held.get(name)
        if wanted != one.shape:
            found = f"shape {one.shape} for {name}"
            shape = f"shape {wanted}" if wanted is not None else "a tensor of the model"
            yield PatientError(one.where, shape, found, "is it made for this base?")


def _missing(
    slots: Mapping[str, Slot], tensors: Mapping[str, Incoming], where: str
) -> Iterator[SurgeryError]:
    """Find places that got no tensor and whose values nothing else tells."""
    for name, slot in slots.items():
        if slot.saved and name not in tensors:
            yield PatientError(where, f"a tensor for {name}", "none", "is the file whole?")
