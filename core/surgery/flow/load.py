"""Load a checkpoint: rebuild the base, replay the journal, let every tensor land."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from surgery.checkpoint.digests import Progress, changed_files
from surgery.checkpoint.fetch import fetched
from surgery.checkpoint.header import TensorEntry, read_header
from surgery.checkpoint.manifest import check_manifest
from surgery.checkpoint.tensors import read_tensor
from surgery.checks.check import demand
from surgery.checks.digest import digest_model
from surgery.checks.ledger import ledger
from surgery.errors import IntegrityError, PluginError
from surgery.flow.files import JOURNAL, changed_in, journal_in, source_from
from surgery.flow.memory import Applied
from surgery.flow.needed import cure, demand_plugin, demand_plugins
from surgery.flow.prove import prove
from surgery.flow.whole import entries_here, fill_from_here, structure_here
from surgery.hooks.registry import Registry, registry
from surgery.operate.fill import fill
from surgery.operate.journal import Journal, StepEntry, steps_of
from surgery.operate.operation import Operation, operate
from surgery.operate.patient import Patient
from surgery.operate.slots import Slot, folded_name
from surgery.operate.source import Source
from surgery.operate.table import named_tensors

if TYPE_CHECKING:
    from surgery.operate.surgery import Surgery


def load(
    folder: str | Path,
    model: nn.Module | Patient | None = None,
    *,
    base: str | Path | None = None,
    plugins: Registry | None = None,
    fast: bool = False,
) -> Applied:
    """Rebuild what a checkpoint describes.

    Args:
        folder: what ``surgery apply`` wrote, or a URL of it.
        model: the base, or a patient, where it was given from Python; changed in place.
        base: where the base is now, if it moved.
        plugins: what is installed; found by itself if not given.
        fast: compare sizes and headers alone, not the sha256 of every byte.

    Returns:
        The patient, its plan and journal; ``undo`` gives the base.

    Raises:
        IntegrityError: files, base or tensors are not what the journal says.
        PluginError: a plugin that took part is missing, or older than it was.
    """
    folder, known = fetched(folder), plugins or registry()
    check_manifest(folder, fast=fast)
    journal = journal_in(folder)
    if journal.whole and base is None and model is None:
        return _whole(journal, folder, known)
    patient = _live(journal, model, folder) if model else _base(journal, folder, base, known, fast)
    operation = replay(journal, patient, known, folder)
    _land(journal, operation, folder, known)
    checks = prove(operation, families=known.families())
    demand(checks, str(folder))
    return Applied(operation, checks, journal.base)


def replay(journal: Journal, patient: Patient, known: Registry, folder: Path) -> Operation:
    """Operate on a base, on meta or with weights, as a journal says.

    Raises:
        PluginError: a plugin that took part is missing, or older than it was.
        SurgeryError: the base is not one on which this can be done.
    """

    def find(entry: StepEntry) -> type[Surgery]:
        try:
            return known.surgery(entry.use)
        except PluginError as error:
            wanted = f"the plugin {entry.plugin} {entry.version}"
            hint = cure(entry.plugin, entry.version)
            where = f"{folder / JOURNAL}: {entry.use}"
            raise PluginError(where, wanted, error.found, hint) from None

    demand_plugins(journal, known, str(folder / JOURNAL))
    steps, sites = steps_of(journal, find, str(folder / JOURNAL), known)
    return operate(patient, steps, seed=journal.seed, sites=sites)


def _whole(journal: Journal, folder: Path, known: Registry) -> Applied:
    """Load a whole model without its base, which therefore cannot be given back."""
    operation = replay(journal, structure_here(journal, folder, known).build(), known, folder)
    fill_from_here(journal, operation, folder, known)
    checks = prove(operation, families=known.families())
    demand(checks, str(folder))
    return Applied(operation, checks, journal.base, without_base=True)


def _land(journal: Journal, operation: Operation, folder: Path, known: Registry) -> None:
    """Give a base what was stored of its change."""
    slots = operation.slots
    replayed = {n: (slot.shape, slot.dtype) for n, slot in slots.items()}
    recorded = {n: (tuple(entry.shape), entry.dtype) for n, entry in journal.tensors.items()}
    entries = stored_entries(journal, folder, known)
    held = {n: (entry.shape, entry.dtype) for n, entry in entries.items()}
    after = {row.name: (row.shape, row.dtype) for row in operation.plan.after}
    wanted = {n: recorded[n] for n, entry in journal.tensors.items() if entry.stored}
    wanted |= {name: after.get(name, ((), "nothing")) for name in journal.trained}
    wanted |= {n: (tuple(entry.shape), entry.dtype) for n, entry in journal.folded.items()}
    demand([ledger(recorded, replayed), ledger(wanted, held)], str(folder))
    names = {id(slot): name for name, slot in slots.items()}

    def stored(slot: Slot) -> Tensor | None:
        lost = folded_name(slot, slots)
        entry = entries.get(names.get(id(slot), lost if lost in journal.folded else ""))
        return None if entry is None else read_tensor(entry)

    fill(operation.transaction.slots, journal.seed, stored)
    for name in journal.trained:
        operation.transaction.overwrite(name, read_tensor(entries[name]))


def stored_entries(journal: Journal, folder: Path, known: Registry) -> dict[str, TensorEntry]:
    """Give the stored tensors that a journal names, by their names in the model.

    Raises:
        SurgeryError: a file is damaged.
    """
    found = dict(read_header(changed_in(folder, journal)).entries)
    if journal.whole:
        listed = {n for n, entry in journal.tensors.items() if entry.stored} | {*journal.trained}
        here = entries_here(journal, folder, known) if listed - found.keys() else {}
        found |= {name: here[name] for name in listed - found.keys() if name in here}
    return found


def _live(journal: Journal, given: nn.Module | Patient, folder: Path) -> Patient:
    patient = given if isinstance(given, Patient) else None
    model = given.model if isinstance(given, Patient) else given
    wanted = journal.base.get("digest", {}).get("tensors")
    found = digest_model(named_tensors(model), journal.trained)
    if wanted != found:
        raise IntegrityError(
            f"{folder / JOURNAL}: base",
            f"the model that was operated on (sha256 {str(wanted)[:12]})",
            f"another (sha256 {found[:12]})",
            "give the same base, or leave `model` out to build it from its source",
        )
    return patient or Patient(model, config=getattr(model, "config", None))


def _base(
    journal: Journal, folder: Path, moved: str | Path | None, known: Registry, fast: bool
) -> Patient:
    source = source_of(journal.base, folder, moved, known)
    check_base(journal, source, folder, fast)
    return source.load()


def check_base(
    journal: Journal,
    source: Source,
    folder: Path,
    fast: bool = False,
    progress: Progress | None = None,
    reread: bool = True,
) -> None:
    """Compare a base with what a journal says of it.

    Args:
        journal: the record.
        source: where the base is.
        folder: the checkpoint, for errors.
        fast: compare sizes alone.
        progress: called with each number of bytes that was hashed, from several threads.
        reread: False to take what is remembered of a file that was not written to since.

    Raises:
        IntegrityError: a file of the base is another.
    """
    wanted = journal.base.get("digest", {}).get("files", {})
    files = source.weights()
    wrong = changed_files(files, wanted, fast=fast, reread=reread, progress=progress)
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
        IntegrityError: the base was a model given from Python, or its options are none.
        PluginError: the plugin of the source is missing, or older than it was.
    """
    if "source" not in base:
        raise IntegrityError(
            f"{folder / JOURNAL}: base",
            "a source to build the base from",
            "a model given from Python",
            "give the model: surgery.load(folder, model)",
        )
    owner = dict(base.get("plugin", {}))
    demand_plugin(
        owner.get("name", ""), owner.get("version", ""), known, f"{folder / JOURNAL}: base"
    )
    options = dict(base["options"])
    if moved is not None:
        options["path"] = str(moved)
    elif options.get("path") == ".":
        options["path"] = str(folder)
    return source_from(base["source"], options, folder, known)
