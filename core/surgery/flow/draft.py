"""The draft of an output: the operation on meta, and what the base's files hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from surgery.anatomy.extended import EXTENSIONS, own_tensors
from surgery.checkpoint.header import Header, TensorEntry, read_header
from surgery.checkpoint.reading import File
from surgery.operate.edits import Place
from surgery.operate.operation import Operation
from surgery.operate.patient import Patient
from surgery.operate.slots import Slot
from surgery.operate.source import Naming, Source
from surgery.operate.table import Row
from surgery.operate.values import Resolver

_T = TypeVar("_T")


@dataclass(frozen=True)
class Draft:
    """An operation on a structure on meta, and the stored tensors of the base.

    Attributes:
        source: where the base is.
        operation: what was done to its structure.
        files: the base's safetensors files, by name; empty where it has none.
        headers: their headers, by the file's name.
        naming: how they name the tensors of the base.
        stored: gives the file entry of a slot whose values are stored already.
        trained: the stored values of base tensors that training changed, by name.
    """

    source: Source
    operation: Operation
    files: Mapping[str, File]
    headers: Mapping[str, Header]
    naming: Naming
    stored: Callable[[Slot], TensorEntry | None] = lambda slot: None
    trained: Mapping[str, TensorEntry] = field(default_factory=dict)

    @cached_property
    def resolver(self) -> Resolver:
        """What turns the operation's tensors into nodes over the files."""
        entries = {n: e for header in self.headers.values() for n, e in header.entries.items()}
        names, converted = self._tied(self.naming.names), self._tied(self.naming.converted)
        return Resolver(entries, names, converted, self.stored, self._tied(self.trained))

    def _tied(self, known: Mapping[str, _T]) -> dict[str, _T]:
        """Give what is known of a tensor of the base by one of its names, by all of them."""
        found = dict(known)
        for row in self.operation.transaction.before:
            names = (row.name, *row.aliases)
            held = [known[name] for name in names if name in known]
            found |= {name: known.get(name, held[0]) for name in names if held}
        return found

    @cached_property
    def rows(self) -> Mapping[str, Row]:
        """The tensors of the result, by each of their names; those of extensions left out."""
        return plain_rows(self.operation)


@dataclass(frozen=True)
class Placed:
    """What was placed on a patient, and what is known of its numbers already.

    Attributes:
        operation: what was placed.
        stored: gives the file entry of a slot whose values are stored.
        trained: the stored values of base tensors that training changed, by name.
    """

    operation: Operation
    stored: Callable[[Slot], TensorEntry | None] = lambda slot: None
    trained: Mapping[str, TensorEntry] = field(default_factory=dict)


def draft_of(source: Source, place: Callable[[Patient], Placed]) -> Draft:
    """Build a base's structure on meta, and operate on it.

    Args:
        source: where the base is.
        place: places the edits on the patient.

    Raises:
        SurgeryError: the base cannot be built, or an edit is refused.
    """
    files = {n: path for n, path in source.weights().items() if n.endswith(".safetensors")}
    headers = {name: read_header(path) for name, path in files.items()}
    patient = source.build()
    naming = source.naming(patient.model, [n for h in headers.values() for n in h.entries])
    placed = place(patient)
    return Draft(source, placed.operation, files, headers, naming, placed.stored, placed.trained)


def plain_rows(operation: Operation) -> dict[str, Row]:
    """Give the tensors of a result, by each of their names; those of extensions left out."""
    added = added_by_extensions(operation)
    kept = (row for row in operation.plan.after if row.persistent and row.name not in added)
    return {name: row for row in kept for name in (row.name, *row.aliases)}


def added_by_extensions(operation: Operation) -> frozenset[str]:
    """Give the names of the tensors that no plain model's files hold as they are.

    Those are what extensions and modules beside the model added, and changed tables that a plain
    model computes by itself.
    """
    tables = {row.name for row in operation.plan.after if not row.persistent}
    beside = tuple(f"{e.path}." for e in operation.plan.edits_of(Place) if e.beside)
    apart = {row.name for row in operation.plan.after if beside and row.name.startswith(beside)}
    return frozenset(tables & operation.plan.slots.keys() | apart) | frozenset(
        f"{path}.{name}" if path else name
        for path, module in operation.patient.model.named_modules(remove_duplicate=False)
        if EXTENSIONS in module.__dict__
        for name in own_tensors(module)
    )
