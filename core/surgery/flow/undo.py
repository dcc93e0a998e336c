"""Take surgeries of a checkpoint back: all of them, or one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from surgery.checkpoint.base import index_of_weights
from surgery.checkpoint.fetch import fetched
from surgery.checkpoint.header import TensorEntry
from surgery.checkpoint.manifest import check_manifest
from surgery.checkpoint.place import place_file
from surgery.checkpoint.reading import File
from surgery.checkpoint.remote import RemoteFile
from surgery.checkpoint.upload import publish_at
from surgery.checkpoint.urls import Folder
from surgery.errors import ConflictError, RefusedError, SurgeryError
from surgery.flow.draft import Placed
from surgery.flow.files import journal_in
from surgery.flow.load import check_base, replay, source_of, stored_entries
from surgery.flow.recipe import Outcome
from surgery.flow.remake import entries_by_slot, remake
from surgery.flow.run import Run
from surgery.hooks.registry import Registry
from surgery.operate.journal import Journal
from surgery.operate.operation import Operation
from surgery.operate.patient import Patient
from surgery.operate.slots import Origin, Slot


def undo_all(
    folder: str | Path,
    target: Folder,
    known: Registry,
    *,
    base: str | Path | None = None,
    force: bool = False,
) -> Folder:
    """Write the base of a checkpoint, its files as they are.

    Args:
        folder: the checkpoint.
        target: where to write.
        known: what the plugins offer.
        base: where the base is now, if it moved.
        force: replace an existing output.

    Raises:
        SurgeryError: files or base are damaged, or the base has no files.
    """
    check_manifest(folder := fetched(folder))
    journal = journal_in(folder)
    source = source_of(journal.base, folder, base, known)
    check_base(journal, source, folder)
    files = source.weights()
    if not files:
        raise RefusedError(
            "undo", "a base with files", f"one that {source.name} makes",
            "build it from the `patient:` of the recipe",
        )  # fmt: skip
    with publish_at(target, force=force, needed_bytes=0) as new:
        for name, path in {**source.companions(), **_beside(files)}.items():
            shutil.copyfile(path, new / name)
        for name, file in files.items():
            place_file(file, new / name)
    return target


def undo_one(
    folder: str | Path,
    number: int,
    target: Folder,
    known: Registry,
    *,
    base: str | Path | None = None,
    run: Run | None = None,
) -> Outcome:
    """Write a checkpoint without one of its surgeries; all other values stay bit for bit.

    Args:
        folder: the checkpoint.
        number: which surgery, counted from 0 as in its journal.
        target: where to write.
        known: what the plugins offer.
        base: where the base is now, if it moved.
        run: how.

    Raises:
        RefusedError: there is no such surgery.
        ConflictError: a later surgery depends on it.
        SurgeryError: files or base are damaged.
    """
    run = run or Run()
    run.report("verify")
    check_manifest(folder := fetched(folder))
    journal = journal_in(folder)
    if not 0 <= number < len(journal.steps):
        names = ", ".join(f"{n} ({step.use})" for n, step in enumerate(journal.steps))
        raise RefusedError("--surgery", f"one of {names}", str(number))
    source = source_of(journal.base, folder, base, known)
    check_base(journal, source, folder)
    entries = stored_entries(journal, folder, known)
    known_values = _values(replay(journal, source.build(), known, folder), journal, entries, number)
    fewer = journal.model_copy(
        update={"steps": [s for n, s in enumerate(journal.steps) if n != number]}
    )

    def place(patient: Patient) -> Placed:
        operation = _replayed(fewer, journal, number, patient, known, folder)
        stored = _carried(operation, journal, number, known_values)
        free = set(operation.plan.trainable)
        trained = {name: entries[name] for name in journal.trained if name in free}
        return Placed(operation, lambda slot: stored.get(id(slot)), trained)

    return remake(
        source, place, target, known, journal=journal, whole=journal.whole is not None,
        run=run,
    )  # fmt: skip


def _beside(files: Mapping[str, File]) -> dict[str, Path]:
    """Give the indexes that stand beside weight files; one behind a URL is fetched."""
    remote = {name: file for name, file in files.items() if isinstance(file, RemoteFile)}
    if index := index_of_weights(remote):
        return {name: index.fetch([name]) / name for name in index.files}
    folders = {path.parent for path in files.values() if isinstance(path, Path)}
    return {p.name: p for folder in folders for p in folder.glob("*.index.json")}


def _values(
    operation: Operation, journal: Journal, entries: Mapping[str, TensorEntry], number: int
) -> dict[tuple[int, str], TensorEntry]:
    """Give the stored values by step and name, where no later step depends on the one to undo.

    Raises:
        ConflictError: one does.
    """
    for slot in operation.plan.slots.values():
        if slot.step > number and any(_is_of(origin, number) for origin in slot.sources):
            raise _depends(journal, number, slot.step, f"{slot.name} is made of what it made")
    stored = entries_by_slot(operation, entries, journal)
    slots = {id(slot): slot for slot in operation.transaction.slots}
    return {(slots[key].step, slots[key].name): entry for key, entry in stored.items()}


def _is_of(origin: Origin, number: int) -> bool:
    """Tell whether a tensor was made by a step, or of what it made."""
    if not isinstance(origin, Slot):
        return False
    return origin.step == number or any(_is_of(source, number) for source in origin.sources)


def _replayed(
    fewer: Journal, journal: Journal, number: int, patient: Patient, known: Registry, folder: Path
) -> Operation:
    """Replay the other steps; one that fails without the undone step depends on it."""
    try:
        return replay(fewer, patient, known, folder)
    except SurgeryError as error:
        later = [n for n in range(len(fewer.steps)) if f"steps[{n}]" in error.where]
        step = later[0] + (later[0] >= number) if later else len(journal.steps) - 1
        raise _depends(journal, number, step, str(error)) from None


def _carried(
    operation: Operation,
    journal: Journal,
    number: int,
    values: Mapping[tuple[int, str], TensorEntry],
) -> dict[int, TensorEntry]:
    """Give the stored values of the slots that are left.

    Raises:
        ConflictError: a tensor has another form without the undone step.
    """
    found = {}
    for slot in operation.transaction.slots:
        step = slot.step + (slot.step >= number)
        entry = values.get((step, slot.name))
        if entry is None:
            continue
        if (entry.shape, entry.dtype) != (slot.shape, slot.dtype):
            why = f"{slot.name} would be {slot.dtype} {slot.shape}, not {entry.dtype} {entry.shape}"
            raise _depends(journal, number, step, why)
        found[id(slot)] = entry
    return found


def _depends(journal: Journal, number: int, step: int, why: str) -> ConflictError:
    return ConflictError(
        f"undo of surgery {number} ({journal.steps[number].use})",
        "no later surgery that depends on it",
        f"surgery {step} ({journal.steps[step].use}): {why}",
        f"undo surgery {step} first",
    )
