"""Make another checkpoint of one: with steps added, or with steps taken away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor

from surgery.checkpoint.header import TensorEntry
from surgery.checkpoint.tensors import read_tensor
from surgery.checkpoint.upload import publish_at
from surgery.checkpoint.urls import Folder
from surgery.checks.check import Check, demand
from surgery.flow.draft import Draft, Placed, draft_of
from surgery.flow.mode import choose_mode
from surgery.flow.plain import prove_plain
from surgery.flow.prove import prove
from surgery.flow.recipe import Outcome, bytes_to_write, prove_from_files
from surgery.flow.run import Report, Run
from surgery.flow.write import Contents, Values, from_files, in_memory, write_output
from surgery.hooks.registry import Registry
from surgery.operate.fill import fill
from surgery.operate.journal import Journal, journal_of, with_trained
from surgery.operate.operation import Operation
from surgery.operate.patient import Patient
from surgery.operate.slots import Slot, folded_name
from surgery.operate.source import Source

Place: TypeAlias = Callable[[Patient], Placed]
"""Places the new steps on a base, on meta or with weights."""


def remake(
    source: Source,
    place: Place,
    target: Folder,
    known: Registry,
    *,
    journal: Journal,
    whole: bool,
    run: Run,
) -> Outcome:
    """Write a checkpoint of a base with other steps, its stored values taken along.

    Args:
        source: the base.
        place: places the steps.
        target: where to write.
        known: what the plugins offer.
        journal: of the checkpoint that is made anew.
        whole: True to write a whole model.
        run: how.

    Raises:
        SurgeryError: a part failed; nothing is published then.
    """
    run.report("plan")
    draft = draft_of(source, place)
    mode = choose_mode(draft, whole, run.way, run.engine.memory)
    run.report(str(mode))
    needed = bytes_to_write(draft, whole)
    with publish_at(target, force=run.force, needed_bytes=needed) as folder:
        operation, values, checks = _made(draft, place, mode.streamed, known, run.report)
        run.report("write")
        slots = draft.operation.plan.slots
        made = journal_of(draft.operation.plan, journal.base)
        stored = [name for name, slot in slots.items() if draft.stored(slot)]
        made = with_trained(made, [*stored, *draft.trained])
        contents = Contents(source, None, draft if whole else None, over=target)
        checks += write_output(folder, operation, made, contents, values=values, engine=run.engine)
        if whole:
            checks.append(prove_plain(source.moved(str(folder)), draft.operation))
        demand(checks, str(target))
    return Outcome(target, draft.operation.plan, tuple(checks), made, mode)


def entries_by_slot(
    operation: Operation, entries: Mapping[str, TensorEntry], journal: Journal
) -> dict[int, TensorEntry]:
    """Give the stored values of an operation's slots, by the slot's identity.

    Args:
        operation: what a journal replayed, before anything else is placed.
        entries: the stored tensors by name.
        journal: says which tensors are stored, of those that are there and those that are gone.
    """
    listed = {name for name, entry in journal.tensors.items() if entry.stored} & entries.keys()
    found = {id(s): entries[n] for n, s in operation.slots.items() if n in listed}
    there = operation.slots
    left = {id(slot) for slot in there.values()}
    for slot in operation.transaction.slots:
        name = folded_name(slot, there)
        if id(slot) not in left and name in journal.folded:
            found[id(slot)] = entries[name]
    return found


def _made(
    draft: Draft, place: Place, streamed: bool, known: Registry, report: Report
) -> tuple[Operation, Values, list[Check]]:
    if streamed:
        return draft.operation, from_files(draft), prove_from_files(draft, known)
    report("load")
    placed = place(draft.source.load())
    operation = placed.operation
    base = {name: tensor for name, tensor, _ in operation.transaction.base}
    for name, entry in placed.trained.items():
        base[name].data.copy_(read_tensor(entry))

    def stored(slot: Slot) -> Tensor | None:
        entry = placed.stored(slot)
        return None if entry is None else read_tensor(entry)

    report("operate")
    fill(operation.transaction.slots, operation.seed, stored)
    report("prove")
    checks = prove(operation, planned=draft.operation.plan, families=known.families())
    demand(checks, "the result")
    kept = [check for check in checks if check.name != "finite values"]
    return operation, in_memory(operation), kept
