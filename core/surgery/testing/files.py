"""Laws on what is written: it replays to the same patient, live or file by file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from surgery.checkpoint.tensors import TensorReader
from surgery.checks.check import Check, skipped
from surgery.checks.digest import digest_of
from surgery.errors import SurgeryError
from surgery.flow.load import load
from surgery.flow.recipe import apply_recipe
from surgery.flow.run import Run, Way
from surgery.recipe.recipe import Recipe
from surgery.recipe.schema import Output
from surgery.testing.case import Case, answers, stir
from surgery.testing.kept import verdict
from surgery.testing.snapshot import differences, snapshot

_WAYS: tuple[Way, ...] = ("live", "stream")

_PLACES = ("surgery.manifest.json", ".safetensors.index.json")
"""Files that say in which file a tensor is, and when it was written."""


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="surgery-") as folder:
        yield Path(folder).resolve()


def replay_equals_original(case: Case) -> Check:
    """Save a patient that was operated on and trained, load it on a fresh base, and compare.

    Taken back again, the fresh base must have its exact bits.
    """
    patient, fresh = case.patient(), case.patient()
    base = snapshot(fresh)
    with _folder() as folder, case.apply(patient) as done:
        trained = stir(patient.model)
        done.save(folder / "saved")
        again = load(folder / "saved", fresh, plugins=case.known)
        same = answers(patient) == answers(fresh)
        one, other = (snapshot(p, identities=False) for p in (patient, fresh))
        again.undo()
    wrong = differences(one, other)
    wrong += [] if same else ["the outputs"]
    wrong += [f"after undo: {what}" for what in differences(base, snapshot(fresh))]
    return verdict(wrong, f"{len(one.facts)} facts, {len(trained)} tensors trained")


def live_equals_streaming(case: Case) -> Check:
    """Write the changed tensors from memory and file by file, and compare every byte of them."""
    return _same_files(case, "changed")


def live_equals_streaming_whole(case: Case) -> Check:
    """Write the whole model from memory and file by file, and compare every byte of tensors."""
    return _same_files(case, "full")


def _same_files(case: Case, kind: Literal["changed", "full"]) -> Check:
    with case.applied(), _folder() as folder:
        written = []
        for way in _WAYS:
            output = Output(path=str(folder / way), save=kind)
            recipe = Recipe(case.steps, case.source, case.seed, output)
            try:
                apply_recipe(recipe, case.known, Run(way))
            except SurgeryError as error:
                if why := _no_law(error):
                    return skipped("", why)
                raise
            written.append(dict(_contents(folder / way)))
    one, other = written
    wrong = [name for name in dict.fromkeys((*one, *other)) if one.get(name) != other.get(name)]
    return verdict(wrong, f"{len(one)} tensors and other files")


def _no_law(error: SurgeryError) -> str:
    """Say why a refusal to write breaks no law; an empty text where it does."""
    if error.where == "--stream":
        return f"not from files alone: {error.found}"
    return str(error) if "loads as a plain model" in str(error) else ""


def _contents(folder: Path) -> Iterator[tuple[str, str]]:
    """Give a digest of each tensor by name, whichever file it is in, and of each other file."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".safetensors":
            reader = TensorReader(path)
            yield from ((f"tensor {name}", digest_of(reader.get(name))) for name in reader.entries)
        elif not path.name.endswith(_PLACES):
            yield str(path.relative_to(folder)), sha256(path.read_bytes()).hexdigest()
