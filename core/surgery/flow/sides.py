"""What one side of a comparison holds: tensors by name, companion files, and the journal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from surgery.checkpoint.fetch import fetched
from surgery.checkpoint.stored import Stored, stored_files, stored_in
from surgery.checkpoint.urls import is_url
from surgery.errors import IntegrityError
from surgery.flow.files import JOURNAL, changed_in, has_journal, journal_in
from surgery.flow.load import check_base, replay, source_of
from surgery.flow.structure import source_given
from surgery.flow.whole import source_here
from surgery.hooks.registry import Registry
from surgery.operate.edits import Keep
from surgery.operate.journal import Journal
from surgery.operate.operation import Operation
from surgery.operate.slots import Base
from surgery.operate.source import Naming, Source

_COMPANION = re.compile(
    r".*config.*\.json|tokenizer\.json|special_tokens_map\.json|added_tokens\.json|modules\.json"
    r"|chat_template\.(json|jinja)|vocab\.(json|txt)|merges\.txt|.*\.(model|tiktoken)"
)


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: how reports name it.
        tensors: what the checkpoint means, by name: of an output, the base's tensors with the
            stored ones laid over them.
        companions: files of configuration and tokenizer, by name; None where a side is weights
            alone.
        journal: the record, where there is one.
        notes: remarks for the reader.
    """

    name: str
    tensors: Mapping[str, Stored]
    companions: Mapping[str, Path] | None
    journal: Journal | None = None
    notes: tuple[str, ...] = ()


def side_of(given: str | Path, known: Registry, base: str | Path | None = None) -> Side:
    """Open a checkpoint for reading.

    Args:
        given: a folder with a model, an output of ``surgery apply``, a weight file,
            ``SOURCE:NAME``, or the URL of a folder.
        known: what the plugins offer.
        base: where the base of an output is now, if it moved.

    Raises:
        PatientError: nothing of the kind is there.
        IntegrityError: a file is damaged, or an output's base is another one.
        PluginError: a plugin that took part in an output is missing.
    """
    if isinstance(given, str) and is_url(given) and not has_journal(given):
        return _of_source(given, source_given(given, known))
    path = fetched(given)
    if (path / JOURNAL).is_file():
        return _output(path, known, base)
    if ":" in str(given) and not path.exists():
        return _of_source(str(given), source_given(str(given), known))
    companions = companions_in(path) if path.is_dir() else None
    return Side(str(given), stored_in(path), companions)


def base_side(folder: Path, known: Registry, base: str | Path | None = None) -> Side:
    """Open the base that an output's journal names.

    Raises:
        IntegrityError: the folder holds no journal, or the base was given from Python.
    """
    if not (folder / JOURNAL).is_file():
        raise IntegrityError(
            str(folder),
            "a folder that surgery wrote, with a journal that names its base",
            "no journal",
            "name both sides",
        )
    source = source_of(journal_in(folder).base, folder, base, known)
    return _of_source(f"base of {folder}", source)


def companions_in(folder: Path) -> dict[str, Path]:
    """Find the files of configuration and tokenizer in a folder, by name."""
    found = sorted(path for path in folder.iterdir() if _COMPANION.fullmatch(path.name))
    return {path.name: path for path in found if path.is_file()}


def _of_source(name: str, source: Source) -> Side:
    companions = source.companions()
    weights = source.weights()
    return Side(name, stored_files(weights.values()), dict(companions) if companions else None)


def _output(folder: Path, known: Registry, base: str | Path | None) -> Side:
    """Open an output: a whole model with what is beside it, or changes of a base."""
    journal = journal_in(folder)
    held = stored_in(changed_in(folder, journal))
    changed = {name: one for name, one in held.items() if name not in journal.folded}
    notes: list[str] = []
    if journal.whole:
        plain = source_here(journal, folder, known).weights()
        tensors = {**stored_files(plain.values()), **changed}
    elif "source" in journal.base:
        tensors = _laid(folder, journal, changed, known, base)
    else:
        tensors = changed
        notes.append("its base was a model given from Python: stored tensors alone are compared")
    return Side(str(folder), tensors, companions_in(folder) or None, journal, tuple(notes))


def _laid(
    folder: Path,
    journal: Journal,
    changed: Mapping[str, Stored],
    known: Registry,
    base: str | Path | None,
) -> dict[str, Stored]:
    """Lay the stored tensors of an output over those of its base, by the names of its files."""
    source = source_of(journal.base, folder, base, known)
    check_base(journal, source, folder, fast=True)
    held = stored_files(source.weights().values())
    patient = source.build()
    naming = source.naming(patient.model, held)
    operation = replay(journal, patient, known, folder)
    remade = {n for n, whole in naming.parts.items() if changed.keys() >= {*whole}}
    laid = {name: one for name, one in _kept(operation, held, naming).items() if name not in remade}
    laid.update({_filed(naming, name): one for name, one in changed.items()})
    return {name: replace(one, name=name) for name, one in laid.items()}


def _filed(naming: Naming, name: str) -> str:
    """Give the name that a base's files have for a tensor of the model."""
    return naming.names.get(name, (name,))[0]


def _kept(operation: Operation, held: Mapping[str, Stored], naming: Naming) -> dict[str, Stored]:
    """Give the base's tensors that are left after an operation, under their names now."""
    gone = {name for row in operation.plan.removed for name in (row.name, *row.aliases)}
    files = {stored for name in gone for stored in naming.names.get(name, (name,))}
    left = {name: one for name, one in held.items() if name not in files}
    for name, slot in operation.slots.items():
        origin = slot.sources[0] if isinstance(slot.value, Keep) and slot.sources else None
        if isinstance(origin, Base) and _filed(naming, origin.name) in held:
            left[_filed(naming, name)] = held[_filed(naming, origin.name)]
    return left
