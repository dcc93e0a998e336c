"""Whether a whole model needs no journal: its own configuration builds what was planned."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from surgery.anatomy.extended import own_tensors, plain_class
from surgery.checks.check import Check, failed, passed, skipped
from surgery.errors import SurgeryError
from surgery.flow.draft import plain_rows
from surgery.flow.write import write_companions
from surgery.operate.edits import Place
from surgery.operate.operation import Operation
from surgery.operate.source import Source
from surgery.operate.table import named_tensors, table_of

NAME = "loads as a plain model"


def prove_plain(source: Source, operation: Operation) -> Check:
    """Check that a plain loader gives the tensors and the modules that an operation made.

    Adapters are left out: they lie beside the model, in a file of their own.

    Args:
        source: reads the folder that was written.
        operation: what was done, on meta.
    """
    plain = source.build().model
    found = [*_of_tensors(plain, operation), *_of_modules(plain, operation)]
    if not found:
        return passed(NAME, f"{len(plain_rows(operation))} tensors")
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return failed(NAME, f"{found[0]}{more}; write `output.save: changed`")


def prove_plain_ahead(source: Source, operation: Operation) -> Check:
    """Check the same before anything is written, on the files that would travel along.

    Args:
        source: the base.
        operation: what was done to its structure.
    """
    if source.outline():
        return skipped(NAME, "what the result is built from is told by its weights")
    with TemporaryDirectory() as folder:
        for name, path in source.companions().items():
            shutil.copyfile(path, Path(folder) / name)
        try:
            write_companions(operation, Path(folder))
            return prove_plain(source.moved(folder), operation)
        except SurgeryError as error:
            return skipped(NAME, f"it is known when all is written: {error}")


def _of_tensors(plain: nn.Module, operation: Operation) -> Iterator[str]:
    """Give the tensors that are not built, or built otherwise."""
    built = (row for row in table_of(named_tensors(plain)) if row.persistent)
    have = {n: (row.shape, row.dtype) for row in built for n in (row.name, *row.aliases)}
    want = {n: (row.shape, row.dtype) for n, row in plain_rows(operation).items()}
    for name in sorted(want.keys() | have.keys()):
        if want.get(name) != have.get(name):
            told = have.get(name, "none")
            yield f"{name}: written {want.get(name, 'not at all')}, its configuration builds {told}"


def _of_modules(plain: nn.Module, operation: Operation) -> Iterator[str]:
    """Give the modules of another class or with other numbers, which might compute otherwise."""
    mine = dict(operation.patient.model.named_modules())
    alike = tuple(_placed_alike(operation))
    for path, other in plain.named_modules():
        module = mine.get(path)
        if module is None or f"{path}.".startswith(alike):
            continue
        kind = plain_class(module)
        if kind is not type(other):
            yield f"{path}: is {kind.__name__}, its configuration builds {type(other).__name__}"
        elif not own_tensors(module):
            yield from _of_numbers(path, _numbers(module), _numbers(other))


def _placed_alike(operation: Operation) -> Iterator[str]:
    """Give where modules were placed that compute what those before them did."""
    for planned in operation.steps:
        for edit in planned.edits:
            if isinstance(edit, Place) and planned.step.surgery.at_init != "changed":
                yield f"{edit.path}."


def _of_numbers(
    path: str, mine: Mapping[str, object], others: Mapping[str, object]
) -> Iterator[str]:
    for name in mine.keys() & others.keys():
        if mine[name] != others[name]:
            where = f"{path}.{name}" if path else name
            yield f"{where}: is {mine[name]!r}, its configuration builds {others[name]!r}"


def _numbers(module: nn.Module) -> dict[str, object]:
    """Give the plain numbers and flags of a module that decide what it computes."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float) and not name.startswith("_") and name != "training"
    }
