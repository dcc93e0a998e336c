"""Load a checkpoint: rebuild the base, replay the journal, let every tensor land."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from surgery.checkpoint.manifest import check_manifest
from surgery.checkpoint.tensors import TensorReader
from surgery.checks.check import demand
from surgery.checks.digest import digest_model
from surgery.checks.ledger import ledger
from surgery.errors import IntegrityError, PluginError
from surgery.flow.files import CHANGED, JOURNAL, digest_base
from surgery.flow.memory import Applied
from surgery.flow.prove import prove
from surgery.hooks.registry import Registry, registry
from surgery.operate.fill import fill
from surgery.operate.journal import Journal, StepEntry, read_journal, steps_of
from surgery.operate.operation import Operation, operate
from surgery.operate.patient import Patient
from surgery.operate.source import Source
from surgery.operate.table import named_tensors

if TYPE_CHECKING:
    from surgery.operate.surgery import Surgery


def load(
    folder: str | Path,
    model: nn.Module | None = None,
    *,
    base: str | Path | None = None,
    plugins: Registry | None = None,
    fast: bool = False,
) -> Applied:
    """Rebuild what a checkpoint describes.

    Args:
        folder: what ``surgery apply`` wrote.
        model: the base, where it was given from Python; changed in place.
        base: where the base is now, if it moved.
        plugins: what is installed; found by itself if not given.
        fast: compare sizes and headers alone, not the sha256 of every byte.

    Returns:
        The patient, its plan and journal; ``undo`` gives the base.

    Raises:
        IntegrityError: files, base or tensors are not what the journal says.
        PluginError: a plugin that took part is missing.
    """
    folder, known = Path(folder), plugins or registry()
    check_manifest(folder, fast=fast)
    journal = read_journal((folder / JOURNAL).read_text("utf-8"), str(folder / JOURNAL))
    patient = _live(journal, model, folder) if model else _base(journal, folder, base, known, fast)
    operation = replay(journal, patient, known, folder)
    _land(journal, operation, folder)
    checks = prove(operation, families=known.families())
    demand(checks, str(folder))
    return Applied(operation, checks, journal.base)


def replay(journal: Journal, patient: Patient, known: Registry, folder: Path) -> Operation:
    """Operate on a base, on meta or with weights, as a journal says.

    Raises:
        PluginError: a plugin that took part is missing.
        SurgeryError: the base is not one on which this can be done.
    """

    def find(entry: StepEntry) -> type[Surgery]:
        try:
            return known.surgery(entry.use)
        except PluginError as error:
            wanted = f"{entry.plugin}=={entry.version}"
            raise PluginError(
                f"{folder / JOURNAL}: {entry.use}",
                f"the plugin {entry.plugin} {entry.version}",
                error.found,
                f"run: pip install '{wanted}'",
            ) from None

    steps, sites = steps_of(journal, find, str(folder / JOURNAL))
    return operate(patient, steps, seed=journal.seed, sites=sites)


def _land(journal: Journal, operation: Operation, folder: Path) -> None:
    slots = operation.slots
    replayed = {n: (slot.shape, slot.dtype) for n, slot in slots.items()}
    recorded = {n: (tuple(entry.shape), entry.dtype) for n, entry in journal.tensors.items()}
    reader = TensorReader(folder / CHANGED)
    held = {n: (entry.shape, entry.dtype) for n, entry in reader.entries.items()}
    stored = {n: recorded[n] for n, entry in journal.tensors.items() if entry.stored}
    before = {row.name: (row.shape, row.dtype) for row in operation.plan.after}
    trained = {name: before.get(name, ((), "nothing")) for name in journal.trained}
    demand([ledger(recorded, replayed), ledger({**stored, **trained}, held)], str(folder))
    names = {id(slot): name for name, slot in slots.items()}
    fill(
        operation.transaction.slots, journal.seed, lambda slot: _stored(reader, names.get(id(slot)))
    )
    for name in journal.trained:
        operation.transaction.overwrite(name, reader.get(name))


def _stored(reader: TensorReader, name: str | None) -> Any:
    return reader.get(name) if name in reader.entries else None


def _live(journal: Journal, model: nn.Module, folder: Path) -> Patient:
    wanted = journal.base.get("digest", {}).get("tensors")
    found = digest_model(named_tensors(model), journal.trained)
    if wanted != found:
        raise IntegrityError(
            f"{folder / JOURNAL}: base",
            f"the model that was operated on (sha256 {str(wanted)[:12]})",
            f"another (sha256 {found[:12]})",
            "give the same base, or leave `model` out to build it from its source",
        )
    return Patient(model, config=getattr(model, "config", None))


def _base(
    journal: Journal, folder: Path, moved: str | Path | None, known: Registry, fast: bool
) -> Patient:
    source = source_of(journal.base, folder, moved, known)
    check_base(journal, source, folder, fast)
    return source.load()


def check_base(journal: Journal, source: Source, folder: Path, fast: bool = False) -> None:
    """Compare a base with what a journal says of it.

    Args:
        journal: the record.
        source: where the base is.
        folder: the checkpoint, for errors.
        fast: compare sizes alone.

    Raises:
        IntegrityError: a file of the base is another.
    """
    wanted, found = journal.base.get("digest", {}).get("files", {}), digest_base(source, fast)
    wrong = sorted(
        name
        for name in wanted.keys() | found.keys()
        if not found.get(name, {}).items() <= wanted.get(name, {}).items() or name not in found
    )
    if wrong:
        raise IntegrityError(
            f"{folder / JOURNAL}: base",
            "the files that were operated on",
            f"another {wrong[0]}",
            "give the folder of the same base with `base=` or --base",
        )


def source_of(
    base: Mapping[str, Any], folder: Path, moved: str | Path | None, known: Registry
) -> Source:
    """Give the source that a journal names.

    Args:
        base: the journal's record of the base.
        folder: the checkpoint, to which a relative path is relative.
        moved: where the base is now, if it moved.
        known: the installed plugins.

    Raises:
        IntegrityError: the base was a model given from Python.
    """
    if "source" not in base:
        raise IntegrityError(
            f"{folder / JOURNAL}: base",
            "a source to build the base from",
            "a model given from Python",
            "give the model: surgery.load(folder, model)",
        )
    options = dict(base["options"])
    if moved is not None:
        options["path"] = str(moved)
    elif options.get("path") == ".":
        options["path"] = str(folder)
    return known.source(base["source"]).model_validate(options)
