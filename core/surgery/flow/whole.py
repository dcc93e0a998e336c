"""Whole models: outputs that hold every tensor, which a plain loader reads as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from surgery.checkpoint.header import TensorEntry, read_header
from surgery.checkpoint.tensors import TensorReader
from surgery.checks.check import demand
from surgery.checks.ledger import ledger
from surgery.flow.draft import added_by_extensions
from surgery.flow.files import changed_in, source_from
from surgery.hooks.registry import Registry
from surgery.operate.dtypes import name_of
from surgery.operate.fill import put
from surgery.operate.journal import Journal
from surgery.operate.operation import Operation
from surgery.operate.source import Source
from surgery.operate.table import named_tensors


def source_here(journal: Journal, folder: Path, known: Registry) -> Source:
    """Give the source that reads the whole model in a folder.

    Raises:
        PluginError: nobody offers the source.
        IntegrityError: the journal names options that the source does not have.
    """
    whole = journal.whole or {}
    options = {**whole["options"], "path": str(folder)}
    return source_from(whole["source"], options, folder, known)


def structure_here(journal: Journal, folder: Path, known: Registry) -> Source:
    """Give the source that builds the base's structure from what a whole model keeps of it."""
    whole = journal.whole or {}
    return source_here(journal, folder / whole["structure"], known)


def entries_here(journal: Journal, folder: Path, known: Registry) -> dict[str, TensorEntry]:
    """Give the stored tensors of a whole model by their names in the model, where they have one.

    Raises:
        SurgeryError: a file is damaged, or the model cannot be built.
    """
    source = source_here(journal, folder, known)
    files = [path for name, path in source.weights().items() if name.endswith(".safetensors")]
    stored = {n: entry for path in files for n, entry in read_header(path).entries.items()}
    naming = source.naming(source.build().model, stored)
    return {name: stored[keys[0]] for name, keys in naming.names.items()}


def fill_from_here(journal: Journal, operation: Operation, folder: Path, known: Registry) -> None:
    """Give an operation on meta all its tensors from a whole model, without its base.

    Raises:
        Problems: a tensor is missing, is extra, or has another shape.
        SurgeryError: a file is damaged.
    """
    added = added_by_extensions(operation)
    plain = dict(_by_name(source_here(journal, folder, known).load().model))
    reader = TensorReader(changed_in(folder, journal))
    wanted = {name: _spec(tensor) for name, tensor in _by_name(operation.patient.model).items()}
    have = {name: _spec(tensor) for name, tensor in plain.items() if name not in added}
    own = {n: (entry.shape, entry.dtype) for n, entry in reader.entries.items()}
    folded = {n: (tuple(e.shape), e.dtype) for n, e in journal.folded.items()}
    extra = {name: wanted[name] for name in added if name in operation.plan.slots}
    demand(
        [
            ledger({n: spec for n, spec in wanted.items() if n not in added}, have),
            ledger({**folded, **extra}, own),
        ],
        str(folder),
    )
    for name, slot in operation.plan.slots.items():
        if name in added:
            put(slot, reader.get(name))
    _move(plain, operation, added)


def _spec(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    return tuple(tensor.shape), name_of(tensor.dtype)


def _move(plain: Mapping[str, Tensor], operation: Operation, added: frozenset[str]) -> None:
    """Move tensors into the places that a structure on meta has for them; ties stay."""
    model = operation.patient.model
    made: dict[int, Tensor] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    slots = {id(slot.placeholder): slot for slot in operation.transaction.slots}
    for name, place, _ in list(named_tensors(model)):
        if name in added:
            continue
        path, _, leaf = name.rpartition(".")
        table: dict[str, Any] = modules[path]._buffers
        if leaf in modules[path]._parameters:
            table = modules[path]._parameters
            tensor = made.setdefault(
                id(plain[name]), nn.Parameter(plain[name].detach(), place.requires_grad)
            )
        else:
            tensor = made.setdefault(id(plain[name]), plain[name])
        table[leaf] = tensor
        if slot := slots.get(id(place)):
            slot.values = tensor


def _by_name(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor, _ in named_tensors(model)}
