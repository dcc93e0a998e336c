"""Verify a folder: what its manifest and journal promise, and what any checkpoint must hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from surgery.checkpoint.digests import Progress
from surgery.checkpoint.fetch import fetched
from surgery.checkpoint.header import read_header
from surgery.checkpoint.index import INDEX, SINGLE, lies_inside, open_checkpoint
from surgery.checkpoint.manifest import MANIFEST, check_manifest
from surgery.checkpoint.stored import Stored, stored_files, stored_in
from surgery.checkpoint.strict import read_json, readable, show_path
from surgery.checks.check import Check, failed, passed, skipped
from surgery.checks.ledger import ledger
from surgery.errors import IntegrityError, RecipeError, SurgeryError
from surgery.flow.files import CHANGED, JOURNAL, changed_in, journal_in
from surgery.flow.load import check_base, source_of, stored_entries
from surgery.flow.verify_structure import (
    STRUCTURAL,
    guarded,
    structural_of_folder,
    structural_of_output,
)
from surgery.flow.verify_values import finite_values
from surgery.flow.verify_vocabulary import CONFIGS
from surgery.hooks.registry import Registry
from surgery.operate.journal import Journal

_RECORD = ("digests", "journal", "ledger", "base")
_VALUES = ("finite values", "structure", *STRUCTURAL)
_OF_FOLDER = ("finite values", "weights", *STRUCTURAL)
_FAST = "left out, since only sizes and headers are compared"
_T = TypeVar("_T")


def verify(
    folder: str | Path,
    known: Registry,
    *,
    base: str | Path | None = None,
    fast: bool = False,
    progress: Progress | None = None,
) -> list[Check]:
    """Check a folder; every check is listed, those that could not be made as skipped.

    Args:
        folder: what ``surgery apply`` wrote, or any other folder with a model.
        known: what the plugins offer.
        base: where the base of an output is now, if it moved.
        fast: compare sizes and headers alone: no digest, no value, no structure.
        progress: called with each number of bytes that was hashed, from several threads.

    Raises:
        RecipeError: there is no such folder.
    """
    folder = fetched(folder)
    with readable(folder):
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing there"
            raise RecipeError(show_path(folder), "a folder", found)
        output = any((folder / name).exists() for name in (MANIFEST, JOURNAL, CHANGED))
    made = _output(folder, known, base, fast, progress) if output else _folder(folder, known, fast)
    return list(made)


def _output(
    folder: Path,
    known: Registry,
    base: str | Path | None,
    fast: bool,
    progress: Progress | None,
) -> Iterator[Check]:
    """Check what ``surgery apply`` wrote; what is damaged is not read any further."""
    files, whole = _attempt("files", lambda: _output_files(folder, fast, progress))
    yield files
    if whole is None:
        yield from _skip("the files are damaged", (*_RECORD, *_VALUES))
        return
    yield passed("digests", "every byte") if not fast else skipped("digests", _FAST)
    check, journal = _attempt("journal", lambda: _journal(folder))
    yield check
    if journal is None:
        yield from _skip("the journal is damaged", (*_RECORD[2:], *_VALUES))
        return
    own, held = _attempt("ledger", lambda: ("", stored_files([changed_in(folder, journal)])))
    if held is None:
        yield own
        yield from _skip("the tensors are damaged", (*_RECORD[3:], *_VALUES))
        return
    yield guarded("ledger", lambda: _ledger(folder, journal, held, known, fast))
    yield _base(folder, journal, known, base, fast, progress)
    if fast:
        yield from _skip(_FAST, _VALUES)
        return
    tensors = [*held.values(), *whole.values()]
    yield guarded("finite values", lambda: finite_values(tensors))
    yield from structural_of_output(folder, journal, known, base, list(held.values()), whole)


def _folder(folder: Path, known: Registry, fast: bool) -> Iterator[Check]:
    """Check a folder that is no output, as far as that can be done."""
    files, stored = _attempt("files", lambda: _folder_files(folder))
    yield files
    if stored is None:
        yield from _skip("the files are damaged", (*_RECORD, *_OF_FOLDER))
        return
    why = f"there is no {MANIFEST}: surgery did not write this folder"
    yield from _skip(why, _RECORD)
    if fast:
        yield from _skip(_FAST, _OF_FOLDER)
        return
    yield guarded("finite values", lambda: finite_values(list(stored.values())))
    yield from structural_of_folder(folder, known, stored)


def _output_files(
    folder: Path, fast: bool, progress: Progress | None
) -> tuple[str, Mapping[str, Stored]]:
    """Check all files of an output; give a remark, and the tensors of a whole model in it."""
    notes = check_manifest(folder, fast=fast, progress=progress)
    for path in sorted(folder.rglob("*.safetensors")):
        read_header(path)
    whole = stored_in(folder) if any((folder / n).is_file() for n in (SINGLE, INDEX)) else {}
    extra = ", ".join(map(show_path, notes[:5])) + (" ..." if len(notes) > 5 else "")
    return f"{len(notes)} are no part of it: {extra}" if notes else "", whole


def _folder_files(folder: Path) -> tuple[str, dict[str, Stored]]:
    """Check links, configurations, headers and index of a folder; give its tensors.

    Raises:
        IntegrityError: one of them is damaged, or leads out of the folder.
        PatientError: there are no weights that can be read without running code.
    """
    with readable(folder):
        _check_links(folder)
        for name in CONFIGS:
            if (folder / name).exists():
                read_json(folder / name)
        safe = any(folder.glob("*.safetensors*"))
        if safe:
            open_checkpoint(folder)
        stored = stored_in(folder)
    how = "headers, index and links hold" if safe else "in torch pickles, which name no code"
    return f"{len(stored)} tensors; {how}", stored


def _check_links(folder: Path) -> None:
    """Refuse links that lead out of a folder."""
    for root, folders, names in os.walk(folder):
        for path in (Path(root, name) for name in (*folders, *names)):
            if path.is_symlink() and not lies_inside(folder, path):
                found = f"a link to {show_path(path.resolve())}"
                raise IntegrityError(show_path(path), "a file in the folder", found)


def _journal(folder: Path) -> tuple[str, Journal]:
    journal = journal_in(folder)
    return f"{len(journal.steps)} steps, {len(journal.tensors)} tensors", journal


def _ledger(
    folder: Path, journal: Journal, held: Mapping[str, Stored], known: Registry, fast: bool
) -> Check:
    """Check that the stored tensors are those of the journal, in shape and dtype."""
    if fast and journal.whole:
        return skipped("ledger", "a whole model needs its structure, which is left out")
    entries = stored_entries(journal, folder, known)
    found = {name: (one.shape, one.dtype) for name, one in entries.items()}
    found |= {name: (one.shape, one.dtype) for name, one in held.items()}
    wanted = {n: (tuple(t.shape), t.dtype) for n, t in journal.tensors.items() if t.stored}
    wanted |= {n: (tuple(t.shape), t.dtype) for n, t in journal.folded.items()}
    missing = [name for name in journal.trained if name not in found]
    if missing:
        return failed("ledger", f"trained tensors are missing: {', '.join(missing[:5])}")
    return ledger({**wanted, **{name: found[name] for name in journal.trained}}, found)


def _base(
    folder: Path,
    journal: Journal,
    known: Registry,
    base: str | Path | None,
    fast: bool,
    progress: Progress | None,
) -> Check:
    """Check that the base is the one that was operated on."""
    if "source" not in journal.base:
        return skipped("base", "it was a model given from Python")

    def compare() -> tuple[str, bool]:
        check_base(journal, source_of(journal.base, folder, base, known), folder, fast, progress)
        return "", True

    return _attempt("base", compare)[0]


def _attempt(name: str, make: Callable[[], tuple[str, _T]]) -> tuple[Check, _T | None]:
    """Make a check of something that raises where it does not hold, and otherwise gives a value."""
    try:
        detail, value = make()
    except SurgeryError as error:
        return failed(name, str(error)), None
    return passed(name, detail), value


def _skip(why: str, names: Sequence[str]) -> Iterator[Check]:
    """List checks as skipped."""
    return (skipped(name, why) for name in names)
