"""Merge the adapters of a checkpoint into its base's weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from surgery.anatomy.selector import EVERYWHERE, Selector
from surgery.checkpoint.fetch import fetched
from surgery.checkpoint.manifest import check_manifest
from surgery.checkpoint.urls import Folder
from surgery.flow.ahead import ahead
from surgery.flow.draft import Placed
from surgery.flow.files import journal_in
from surgery.flow.load import check_base, replay, source_of, stored_entries
from surgery.flow.recipe import Outcome
from surgery.flow.remake import entries_by_slot, remake
from surgery.flow.run import Run
from surgery.hooks.registry import Registry
from surgery.operate.merge import Merge, merge_sites
from surgery.operate.operation import proceed
from surgery.operate.patient import Patient
from surgery.operate.step import Step


def merge_output(
    folder: str | Path,
    target: Folder,
    known: Registry,
    *,
    extensions: Sequence[str] = ("*",),
    base: str | Path | None = None,
    whole: bool = True,
    run: Run | None = None,
) -> Outcome:
    """Write a checkpoint with extensions, such as LoRA adapters, folded into their weights.

    The adapters are stored beside the result, so that the merge can be undone.

    Args:
        folder: the checkpoint that has them.
        target: where to write.
        known: what the plugins offer.
        extensions: names of the extensions to fold, with wildcards.
        base: where the base is now, if it moved.
        whole: True to write all tensors, for plain loaders; False for the changed ones alone.
        run: how.

    Raises:
        SurgeryError: files or base are damaged, nothing is there to merge, or a result is not
            finite; nothing is published then.
    """
    run = run or Run()
    run.report("verify")
    check_manifest(folder := fetched(folder))
    journal = journal_in(folder)
    source = source_of(journal.base, folder, base, known)
    entries = stored_entries(journal, folder, known)
    surgery = Merge(extensions=list(extensions))
    owner = known.owner("surgery", Merge)
    step = Step(surgery, Selector(path=(EVERYWHERE,)), where="merge", plugin=owner)

    def place(patient: Patient) -> Placed:
        checked()
        operation = replay(journal, patient, known, folder)
        stored = entries_by_slot(operation, entries, journal)
        proceed(operation, [step], sites=[surgery.scope(merge_sites(patient.model), patient)])
        trained = {name: entries[name] for name in journal.trained}
        return Placed(operation, lambda slot: stored.get(id(slot)), trained)

    check = partial(check_base, journal, source, folder, False, reread=False)
    with ahead(check) as checked:
        return remake(source, place, target, known, journal=journal, whole=whole, run=run)
