"""What stands in an output folder, and how it is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from surgery.checkpoint.manifest import digest_files, write_manifest
from surgery.checkpoint.tensors import TensorReader
from surgery.checkpoint.writer import NewEntry, write_tensors
from surgery.checks.check import Check
from surgery.checks.ledger import ledger
from surgery.operate.dtypes import name_of
from surgery.operate.edits import ChangeTokenizer, SetConfig
from surgery.operate.exporter import Exporter
from surgery.operate.journal import Journal
from surgery.operate.operation import Operation
from surgery.operate.slots import Base
from surgery.operate.source import Source

CHANGED = "changed.safetensors"
"""The tensors that the base does not hold."""

JOURNAL = "surgery.json"
"""The journal."""

RECIPE = "recipe.yaml"
"""The recipe, with everything filled in."""


def base_of(source: Source) -> dict[str, Any]:
    """Describe a base, so that it can be built again and recognised."""
    return {
        "source": source.name,
        "options": source.model_dump(mode="json"),
        "digest": {"files": digest_base(source)},
    }


def digest_base(source: Source, fast: bool = False) -> dict[str, dict[str, Any]]:
    """Give size and sha256 of a base's weight files, by file name; sizes alone if fast."""
    return digest_files(source.weights(), fast=fast)


def write_output(
    folder: Path,
    operation: Operation,
    journal: Journal,
    *,
    source: Source | None = None,
    recipe: str | None = None,
    full: bool = False,
    exporters: Sequence[Exporter] = (),
) -> Check:
    """Write everything into a folder that is not published yet; the manifest comes last.

    Args:
        folder: where to write.
        operation: what was done, its tensors filled.
        journal: the record.
        source: where the patient came from; its config and tokenizer files travel along.
        recipe: the resolved recipe, as YAML.
        full: True to write all of the base's tensors too.
        exporters: what writes other tools' formats, each into a folder of its own.

    Returns:
        The ledger of what was written, read back from the file.
    """
    for name, path in (source.companions() if source else {}).items():
        shutil.copyfile(path, folder / name)
    _write_companions(operation, folder)
    if full and source is not None:
        source.save(operation.patient, folder)
        journal = _moved_here(journal, source, folder)
    wanted = stored_tensors(operation, journal)
    write_tensors(folder / CHANGED, [_entry(name, tensor) for name, tensor in wanted.items()])
    for exporter in exporters:
        (folder / exporter.name).mkdir()
        exporter.export(operation.patient.model, journal.base, folder / exporter.name)
    if recipe is not None:
        (folder / RECIPE).write_text(recipe, encoding="utf-8")
    (folder / JOURNAL).write_text(journal.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_manifest(folder)
    return _read_back(folder, wanted)


def stored_tensors(operation: Operation, journal: Journal) -> dict[str, Tensor]:
    """Give the tensors that the base does not hold: new, changed and trained ones, by name."""
    found = {n: s.values for n, s in operation.slots.items() if s.saved and s.values is not None}
    for name in journal.trained:
        origin = operation.transaction.origin(name)
        found[name] = origin.tensor if isinstance(origin, Base) else found[name]
    return found


def _entry(name: str, tensor: Tensor) -> NewEntry:
    produce: Callable[[], Tensor] = tensor.detach
    return NewEntry(name, name_of(tensor.dtype), tuple(tensor.shape), produce)


def _read_back(folder: Path, wanted: Mapping[str, Tensor]) -> Check:
    held = {n: (e.shape, e.dtype) for n, e in TensorReader(folder / CHANGED).entries.items()}
    return ledger({n: (tuple(t.shape), name_of(t.dtype)) for n, t in wanted.items()}, held)


def _write_companions(operation: Operation, folder: Path) -> None:
    patient, plan = operation.patient, operation.plan
    if plan.edits_of(SetConfig) and hasattr(patient.config, "save_pretrained"):
        patient.config.save_pretrained(folder)
    if plan.edits_of(ChangeTokenizer):
        patient.tokenizer.save_pretrained(folder)


def _moved_here(journal: Journal, source: Source, folder: Path) -> Journal:
    """Let the journal name the folder itself as the base, since it holds all weights."""
    here = source.moved(".")
    digest = {"files": digest_files(source.moved(str(folder)).weights())}
    base = {"source": here.name, "options": here.model_dump(mode="json"), "digest": digest}
    return journal.model_copy(update={"base": base})
