"""Rebuild on meta what a folder describes, and hold the stored tensors against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.stored import Stored
from surgery.checks.check import Check, failed, passed, skipped, warned
from surgery.checks.ledger import ledger
from surgery.errors import MissingExtraError, PatientError, PluginError, SurgeryError
from surgery.flow.load import replay, source_of
from surgery.flow.prove import contracts
from surgery.flow.structure import source_given
from surgery.flow.verify_values import ties
from surgery.flow.verify_vocabulary import Rows, rows_of, token_ids, tokens_of, vocabulary_rows
from surgery.flow.whole import source_here, structure_here
from surgery.hooks.registry import Registry
from surgery.operate.family import Family
from surgery.operate.journal import Journal
from surgery.operate.operation import Operation
from surgery.operate.patient import Patient
from surgery.operate.source import Naming, Source
from surgery.operate.table import Row, named_tensors, table_of

STRUCTURAL = ("ties", "vocabulary rows", "token ids", "contracts")
"""The checks that need the structure, besides that the tensors fit it."""

Held = Mapping[str, Sequence[Stored]]
"""What some files hold, by name in the model; a tensor may be stored more than once."""


@dataclass(frozen=True)
class Structure:
    """What a folder describes, on meta.

    Attributes:
        patient: the structure, as it is loaded.
        groups: what is stored; one mapping for each set of files that is read as one.
        before: the vocabulary of the base of an output.
        written: the patient that the folder's own configuration and tokenizer make.
    """

    patient: Patient
    groups: list[Held]
    before: Rows | None = None
    written: Patient | None = None


def structural_of_output(
    folder: Path,
    journal: Journal,
    known: Registry,
    base: str | Path | None,
    changed: Sequence[Stored],
    whole: Mapping[str, Stored],
) -> Iterator[Check]:
    """Make the checks that need the structure of an output.

    Args:
        folder: what ``surgery apply`` wrote.
        journal: its record.
        known: what the plugins offer.
        base: where the base is now, if it moved.
        changed: the tensors that the base does not hold.
        whole: the tensors of the whole model by name in its files, where it was written too.
    """
    if "source" not in journal.base and not journal.whole:
        yield from _skip("structure", "the base was a model given from Python")
        return
    try:
        source, here = _sources(journal, folder, base, known)
        patient = source.build()
        before = rows_of(patient)
        operation = replay(journal, patient, known, folder)
    except SurgeryError as error:
        yield from _not_built("structure", error)
        return
    yield _replayed(journal, operation)
    groups: list[Held] = [{one.name: (one,) for one in changed}]
    written = _written(here, folder)
    if written is not None and whole:
        held, check = _placed(*written, whole)
        groups.append(held)
        yield check
    own = written[1] if written else None
    yield from _checks(folder, Structure(patient, groups, before, own), known.families())


def structural_of_folder(
    folder: Path, known: Registry, stored: Mapping[str, Stored]
) -> Iterator[Check]:
    """Make the checks that need the structure of a folder that is no output.

    Args:
        folder: a folder that a source reads.
        known: what the plugins offer.
        stored: its tensors by name in the files.
    """
    try:
        source = source_given(str(folder), known)
        patient = source.build()
        held, check = _placed(source, patient, stored)
    except SurgeryError as error:
        yield from _not_built("weights", error)
        return
    yield check
    yield from _checks(folder, Structure(patient, [held], None, patient), known.families())


def _checks(folder: Path, structure: Structure, families: Iterable[Family]) -> Iterator[Check]:
    """Make the checks on a structure and what is stored of it."""
    patient, written = structure.patient, structure.written
    tokenizer = (written or patient).tokenizer
    held = {name: copies for group in structure.groups for name, copies in group.items()}
    now = rows_of(patient, held)
    yield guarded("ties", lambda: ties(table_of(named_tensors(patient.model)), structure.groups))
    yield vocabulary_rows(
        now,
        built=rows_of(written) if written else None,
        before=structure.before,
        tokens=tokens_of(tokenizer),
    )
    yield guarded("token ids", lambda: token_ids(folder, now, tokenizer))
    yield from contracts(patient, families)


def guarded(name: str, make: Callable[[], Check]) -> Check:
    """Make a check; where a file cannot be read after all, it failed."""
    try:
        return make()
    except SurgeryError as error:
        return failed(name, str(error))


def _replayed(journal: Journal, operation: Operation) -> Check:
    """Check that the journal, replayed, makes the very tensors that it lists."""
    recorded = {n: (tuple(entry.shape), entry.dtype) for n, entry in journal.tensors.items()}
    made = {name: (slot.shape, slot.dtype) for name, slot in operation.slots.items()}
    found = ledger(recorded, made)
    return Check("structure", found.status, f"journal against replay: {found.detail}")


def _placed(source: Source, patient: Patient, stored: Mapping[str, Stored]) -> tuple[Held, Check]:
    """Find the place of each stored tensor in a model, and check that they fit."""
    naming = source.naming(patient.model, stored)
    held = {name: [stored[key] for key in keys] for name, keys in naming.names.items()}
    return held, _fits(table_of(named_tensors(patient.model)), held, naming)


def _fits(rows: Iterable[Row], held: Held, naming: Naming) -> Check:
    """Check that each tensor of a model is stored, and in its shape."""
    wanted = {name: row for row in rows for name in (row.name, *row.aliases) if row.persistent}
    missing = [
        row.name
        for row in dict.fromkeys(wanted.values())
        if not any(n in held or n in naming.converted for n in (row.name, *row.aliases))
    ]
    misshapen = [
        f"{one.name} {list(one.shape)} for {list(wanted[name].shape)}"
        for name, copies in held.items()
        for one in copies
        if name in wanted and one.shape != wanted[name].shape
    ]
    if missing or misshapen:
        parts = [_some("missing", missing), _some("of another shape", misshapen)]
        return failed("weights", "; ".join(filter(None, parts)))
    unknown = [one.name for name, copies in held.items() if name not in wanted for one in copies]
    if unknown:
        return warned("weights", _some("that the model does not have", unknown))
    return passed("weights", f"{len(dict.fromkeys(wanted.values()))} tensors of the model")


def _some(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} {what}: {', '.join(names[:5])}{more}" if names else ""


def _sources(
    journal: Journal, folder: Path, base: str | Path | None, known: Registry
) -> tuple[Source, Source]:
    """Give the source of the base's structure, and one that may read the folder itself."""
    if journal.whole:
        return structure_here(journal, folder, known), source_here(journal, folder, known)
    source = source_of(journal.base, folder, base, known)
    return source, source


def _written(source: Source, folder: Path) -> tuple[Source, Patient] | None:
    """Build what the folder's own configuration and tokenizer make, where it has them."""
    try:
        moved = source.moved(str(folder))
        return moved, moved.build()
    except SurgeryError:
        return None


def _not_built(name: str, error: SurgeryError) -> Iterator[Check]:
    """Give the checks where there is no structure; a base or plugin that is not here is no damage.

    Args:
        name: the check that the tensors fit the structure.
        error: why there is none.
    """
    if isinstance(error, PatientError | PluginError | MissingExtraError):
        yield from _skip(name, f"it cannot be rebuilt: {error}")
        return
    yield failed(name, str(error))
    yield from (skipped(other, "it cannot be rebuilt") for other in STRUCTURAL)


def _skip(name: str, why: str) -> Iterator[Check]:
    """List all checks that need the structure as skipped."""
    return (skipped(one, why) for one in (name, *STRUCTURAL))
