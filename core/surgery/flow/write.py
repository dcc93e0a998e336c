"""Write an output: the changed tensors or a whole model, the journal, and the manifest last."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from surgery.checkpoint.index import INDEX
from surgery.checkpoint.manifest import write_manifest
from surgery.checkpoint.tensors import TensorReader
from surgery.checkpoint.urls import Folder
from surgery.checks.check import Check, failed, passed
from surgery.checks.ledger import ledger
from surgery.flow.card import Trained, card_of, write_card
from surgery.flow.draft import Draft, added_by_extensions
from surgery.flow.files import JOURNAL, RECIPE, STRUCTURE, changed_in
from surgery.flow.layout import Layout, index_of
from surgery.flow.shards import Advance, FileTask, Piece, Written, write_files
from surgery.operate.edits import ChangeTokenizer, SetConfig
from surgery.operate.exporter import Exporter
from surgery.operate.fill import put
from surgery.operate.journal import Journal
from surgery.operate.operation import Operation
from surgery.operate.slots import Base, Slot, folded_name
from surgery.operate.source import Source
from surgery.operate.values import Held, Node, NotStoredError


@dataclass(frozen=True)
class Engine:
    """Say how files are written.

    Attributes:
        memory: bytes of tensors that may be in memory at once; no bound if None.
        executor: where files are written; threads of this process if None.
        progress: called with each number of bytes written.
        total: called with the number of bytes to write, before the first.
        link: False to copy unchanged files of the base; True lets them share its bytes.
    """

    memory: int | None = None
    executor: Executor | None = None
    progress: Advance = lambda count: None
    total: Advance = lambda count: None
    link: bool = True


@dataclass(frozen=True)
class Values:
    """Where the numbers of a result come from: from memory, or from the base's files.

    Attributes:
        slot: gives the node of a slot.
        trained: gives the node of a base tensor that training changed, by name.
        live: gives a tensor of the result by name; None where the result is on meta.
    """

    slot: Callable[[Slot], Node]
    trained: Callable[[str], Node]
    live: Callable[[str], Tensor] | None


def in_memory(operation: Operation) -> Values:
    """Take numbers from a patient in memory."""

    def now(name: str) -> Tensor:
        slot = operation.plan.slots.get(name)
        origin = slot or operation.transaction.origin(name)
        tensor = origin.tensor if isinstance(origin, Base) else origin.values
        if tensor is None:
            raise RuntimeError(f"{name} is written before it is filled")
        return tensor

    return Values(_held, lambda name: Held(now(name)), now)


def from_files(draft: Draft) -> Values:
    """Compute numbers from the base's files, when they are written."""

    def trained(name: str) -> Node:
        if name not in draft.trained:
            raise NotStoredError(name, "is in no file of the base")
        return draft.trained[name]

    return Values(draft.resolver.node, trained, None)


@dataclass(frozen=True)
class Contents:
    """What an output holds beside the changed tensors and the journal.

    Attributes:
        source: where the patient came from; its config and tokenizer files travel along.
        recipe: the resolved recipe, as YAML.
        whole: the draft of a whole model, to write one; the changed tensors alone if None.
        exporters: what writes other tools' formats, each into a folder of its own.
        trained: what a training did, for the model card.
        over: the output that this one replaces, if one stands there; its card's own text stays.
    """

    source: Source | None = None
    recipe: str | None = None
    whole: Draft | None = None
    exporters: Sequence[Exporter] = ()
    trained: Trained | None = None
    over: Folder | None = None


def write_output(
    folder: Path,
    operation: Operation,
    journal: Journal,
    contents: Contents | None = None,
    *,
    values: Values | None = None,
    engine: Engine | None = None,
) -> list[Check]:
    """Write everything into a folder that is not published yet; the manifest comes last.

    Args:
        folder: where to write.
        operation: what was done.
        journal: the record.
        contents: what else is written.
        values: where the numbers come from; the patient in memory if None.
        engine: how files are written.

    Returns:
        The checks of what was written: the ledger, read back, and finite values.

    Raises:
        NotStoredError: a tensor cannot be computed from the base's files.
        SurgeryError: a file cannot be written.
    """
    contents = contents or Contents()
    values, engine = values or in_memory(operation), engine or Engine()
    _copy(contents.source, folder)
    write_companions(operation, folder)
    tasks: list[FileTask] = []
    if contents.whole is not None:
        journal = _of_whole(journal, contents.whole.source, operation, folder)
        tasks = _whole(contents.whole, operation, values, journal, folder)
        tasks = [replace(task, way="auto" if engine.link else "copy") for task in tasks]
    changed = changed_task(operation, journal, values, folder)
    engine.total(sum(task.bytes for task in (*tasks, changed)))
    written = write_files(
        [*tasks, changed],
        memory=engine.memory,
        executor=engine.executor,
        progress=engine.progress,
    )
    if contents.exporters and values.live is None:
        _read_in(operation, changed.path)
    _export(contents.exporters, operation, journal, folder)
    if contents.recipe is not None:
        (folder / RECIPE).write_text(contents.recipe, encoding="utf-8")
    (folder / JOURNAL).write_text(journal.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_manifest(folder, _digests(tasks, written, journal, folder))
    card = card_of(operation, journal, contents.source, contents.trained)
    write_card(folder, card, contents.over)
    wanted = {piece.name: (piece.shape, piece.dtype) for piece in changed.pieces}
    return [_read_back(changed.path, wanted), _finite(written)]


def changed_task(operation: Operation, journal: Journal, values: Values, folder: Path) -> FileTask:
    """Give the file of the tensors that neither the base nor a whole model beside it holds.

    Args:
        operation: what was done.
        journal: the record.
        values: where the numbers come from.
        folder: where to write.
    """
    listed, slots = journal.tensors, operation.plan.slots
    slots = {name: slot for name, slot in slots.items() if listed[name].stored}
    trained = [name for name in journal.trained if name not in slots]
    if journal.whole:
        own, trained = added_by_extensions(operation), []
        slots = {name: slot for name, slot in slots.items() if name in own}
    folded = {folded_name(s, operation.plan.slots): s for s in operation.plan.folded}
    pieces = [_piece(name, slot, values) for name, slot in {**folded, **slots}.items()]
    rows = {row.name: row for row in operation.plan.after}
    pieces += [Piece(n, rows[n].dtype, rows[n].shape, values.trained(n)) for n in trained]
    path = changed_in(folder, journal)
    path.parent.mkdir(exist_ok=True)
    return FileTask(path, tuple(pieces), journal.seed)


def write_companions(operation: Operation, folder: Path) -> None:
    """Write the configuration and tokenizer files that a plan changes."""
    patient, plan = operation.patient, operation.plan
    owners = {"config": patient, "generation_config": patient.model, "processor": patient}
    for name in sorted({edit.of for edit in plan.edits_of(SetConfig)}):
        changed = getattr(owners[name], name)
        if hasattr(changed, "save_pretrained"):
            changed.save_pretrained(folder)
    for edit in plan.edits_of(ChangeTokenizer):
        for name in edit.replaces:
            (folder / name).unlink(missing_ok=True)
    if plan.edits_of(ChangeTokenizer):
        patient.tokenizer.save_pretrained(folder)


def _copy(source: Source | None, folder: Path) -> None:
    """Copy the files that travel along."""
    for name, path in (source.companions() if source else {}).items():
        shutil.copyfile(path, folder / name)


def _whole(
    draft: Draft, operation: Operation, values: Values, journal: Journal, folder: Path
) -> list[FileTask]:
    """Give the files of a whole model, and write the index of several."""
    slots = operation.plan.slots

    def node(name: str) -> Node:
        return values.slot(slots[name]) if name in slots else values.trained(name)

    layout = Layout(draft, node, frozenset(journal.trained), values.live)
    tasks = layout.tasks(folder, journal.seed)
    if len(tasks) > 1:
        names = {path.parent for path in draft.files.values() if isinstance(path, Path)}
        found = [p.name for parent in names for p in parent.glob("*.safetensors.index.json")]
        name = found[0] if len(found) == 1 else INDEX
        (folder / name).write_text(index_of(tasks), encoding="utf-8")
    return tasks


def _of_whole(journal: Journal, source: Source, operation: Operation, folder: Path) -> Journal:
    """Let the journal say that all tensors are here, and keep what the base is built from."""
    outline = source.outline()
    changed = bool(outline or operation.plan.edits_of(SetConfig, ChangeTokenizer))
    if changed:
        (folder / STRUCTURE).mkdir(parents=True)
        _copy(source, folder / STRUCTURE)
    for name, text in outline.items():
        (folder / STRUCTURE / name).write_text(text, encoding="utf-8")
    here = source.moved(".")
    whole = {
        "source": here.name,
        "options": here.model_dump(mode="json"),
        "structure": STRUCTURE if changed else ".",
    }
    return journal.model_copy(update={"whole": whole})


def _read_in(operation: Operation, path: Path) -> None:
    """Read what was written into a patient on meta, for whoever looks at its adapters."""
    reader = TensorReader(path)
    for name, slot in operation.plan.slots.items():
        if name in reader.entries:
            put(slot, reader.get(name))


def _export(
    exporters: Iterable[Exporter], operation: Operation, journal: Journal, folder: Path
) -> None:
    for exporter in exporters:
        (folder / exporter.name).mkdir()
        exporter.export(operation, journal, folder / exporter.name)


def _digests(
    tasks: Iterable[FileTask], written: Iterable[Written], journal: Journal, folder: Path
) -> dict[str, dict[str, Any]]:
    """Give the digests of files of the base, and of those that were hashed while written."""
    base: dict[str, dict[str, Any]] = journal.base.get("digest", {}).get("files", {})
    same = ((t.path, t.same_as) for t in tasks)
    found = {path: base[p.name] for path, p in same if isinstance(p, Path) and p.name in base}
    found |= {one.path: one.digest for one in written if one.digest}
    return {path.relative_to(folder).as_posix(): digest for path, digest in found.items()}


def _piece(name: str, slot: Slot, values: Values) -> Piece:
    return Piece(name, slot.dtype, slot.shape, values.slot(slot))


def _held(slot: Slot) -> Node:
    if slot.values is None:
        raise RuntimeError(f"{slot.name} is written before it is filled")
    return Held(slot.values)


def _read_back(path: Path, wanted: Mapping[str, tuple[tuple[int, ...], str]]) -> Check:
    found = {n: (e.shape, e.dtype) for n, e in TensorReader(path).entries.items()}
    return ledger(wanted, found)


def _finite(written: Sequence[Written]) -> Check:
    bad = [name for one in written for name in one.not_finite]
    count = sum(one.computed for one in written)
    if bad:
        return failed("finite values", f"NaN or infinity in {', '.join(bad[:5])} ({len(bad)})")
    return passed("finite values", f"{count} tensors")
