"""Verify a checkpoint without building its model: files, journal, base and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from surgery.checkpoint.manifest import check_manifest
from surgery.checkpoint.tensors import TensorReader
from surgery.checks.check import Check, failed, passed, skipped
from surgery.checks.invariants import finite
from surgery.checks.ledger import ledger
from surgery.errors import SurgeryError
from surgery.flow.files import CHANGED, JOURNAL
from surgery.flow.load import check_base, source_of
from surgery.hooks.registry import Registry
from surgery.operate.journal import Journal, read_journal


def verify(
    folder: Path, known: Registry, *, base: Path | None = None, fast: bool = False
) -> list[Check]:
    """Check a checkpoint; every check is listed, those that could not be made as skipped.

    Args:
        folder: what ``surgery apply`` wrote.
        known: what the plugins offer.
        base: where the base is now, if it moved.
        fast: compare sizes and headers alone, not the sha256 of every byte.
    """
    files = _tried("files", lambda: check_manifest(folder, fast=fast))
    if files.status != "passed":
        return [files, *(skipped(name, "the files are damaged") for name in _LATER)]
    journal = read_journal((folder / JOURNAL).read_text("utf-8"), str(folder / JOURNAL))
    return [files, *_deeper(folder, journal, known, base, fast)]


_LATER = ("ledger", "finite values", "base")


def _deeper(
    folder: Path, journal: Journal, known: Registry, base: Path | None, fast: bool
) -> Iterator[Check]:
    reader = TensorReader(folder / CHANGED)
    stored = {n: (tuple(t.shape), t.dtype) for n, t in journal.tensors.items() if t.stored}
    held = {n: (entry.shape, entry.dtype) for n, entry in reader.entries.items()}
    trained = {name: held[name] for name in journal.trained if name in held}
    missing = [name for name in journal.trained if name not in held]
    found = ledger({**stored, **trained}, held)
    yield failed("ledger", f"trained tensors are missing: {missing}") if missing else found
    yield finite({name: reader.get(name) for name in reader.entries})
    if "source" not in journal.base:
        yield skipped("base", "it was a model given from Python")
        return

    def compare() -> None:
        check_base(journal, source_of(journal.base, folder, base, known), folder, fast)

    yield _tried("base", compare)


def _tried(name: str, check: Callable[[], object]) -> Check:
    try:
        check()
    except SurgeryError as error:
        return failed(name, str(error))
    return passed(name)
