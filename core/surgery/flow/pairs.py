"""Pair the tensors of a model as two checkpoints hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.checkpoint.fetch import fetched
from surgery.checkpoint.pair import Pair
from surgery.checkpoint.stored import Stored, stored_files, stored_tensors
from surgery.flow.files import JOURNAL
from surgery.flow.load import load
from surgery.flow.sides import side_of
from surgery.hooks.registry import Registry
from surgery.operate.patient import Patient
from surgery.operate.source import Source
from surgery.operate.table import Row, named_tensors, table_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Pairs:
    """The tensors of a model, before and after.

    Attributes:
        by_name: the pair of each tensor, under every name that the model has for it.
        places: the first name of each tensor, by every name.
        notes: tensors that one side alone holds, and how the sides were read.
    """

    by_name: Mapping[str, Pair]
    places: Mapping[str, str]
    notes: tuple[str, ...] = ()


def pairs_of(tuned: str | Path, source: Source, patient: Patient, known: Registry) -> Pairs:
    """Pair the tensors of a base with those of a checkpoint made from it.

    Files are read in stretches. Where the library converts tensors when it loads them, so that
    files hold them in another form, both models are loaded instead.

    Args:
        tuned: the checkpoint.
        source: the base.
        patient: the base's structure.
        known: what the plugins offer.

    Raises:
        PatientError: a side holds no weights.
        IntegrityError: a file is damaged.
    """
    rows = [row for row in table_of(named_tensors(patient.model)) if row.persistent]
    sides = [stored_files(source.weights().values()), side_of(tuned, known).tensors]
    namings = [source.naming(patient.model, side) for side in sides]
    if any(naming.converted for naming in namings):
        note = "the files hold tensors in another form than the model: both models were loaded"
        before, after = _held(source.load().model), _held(_loaded(tuned, source, known))
        return _paired(rows, before, after, (note,))
    found = [
        {name: side[stored[0]] for name, stored in naming.names.items()}
        for naming, side in zip(namings, sides, strict=True)
    ]
    return _paired(rows, found[0], found[1], ())


def _paired(
    rows: list[Row],
    before: Mapping[str, Stored],
    after: Mapping[str, Stored],
    notes: tuple[str, ...],
) -> Pairs:
    by_name, places, missing = {}, {}, []
    for row in rows:
        names = (row.name, *row.aliases)
        old, new = _first(before, names), _first(after, names)
        if old and new:
            by_name.update(dict.fromkeys(names, Pair(old, new)))
            places.update(dict.fromkeys(names, row.name))
        elif old or new:
            where = "the base" if old else "the tuned checkpoint"
            missing.append(f"{row.name} is in {where} alone and is not expressed")
    known = {name for row in rows for name in (row.name, *row.aliases)}
    extra = sorted(after.keys() - before.keys() - known)
    missing += [f"{name} is no tensor of the base's model and is not expressed" for name in extra]
    return Pairs(by_name, places, (*notes, *missing))


def _first(side: Mapping[str, Stored], names: tuple[str, ...]) -> Stored | None:
    return next((side[name] for name in names if name in side), None)


def _held(model: nn.Module) -> dict[str, Stored]:
    return stored_tensors({name: tensor for name, tensor, _ in named_tensors(model)})


def _loaded(tuned: str | Path, source: Source, known: Registry) -> nn.Module:
    path = fetched(tuned)
    if (path / JOURNAL).is_file():
        return load(path, plugins=known).model
    return source.moved(str(path)).load().model
