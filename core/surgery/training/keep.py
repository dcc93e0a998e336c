"""The checkpoints of a run: the last ones and the best one, and which to go on from."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from surgery.errors import IntegrityError, Problems
from surgery.training.state import State, read_state, save_state

_FOLDER = "checkpoints"


def keep_state(run: Path, state: State, *, best: bool, keep: int) -> Path:
    """Write a checkpoint of a run, and remove those that are not kept.

    Args:
        run: folder of the run.
        state: what to write.
        best: True where no earlier one is better.
        keep: how many of the last ones stay.
    """
    folder = run / _FOLDER / f"step-{state.progress.step:08d}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_state(folder, state)
    if best:
        _point(run / _FOLDER / "best.json", folder.name)
    _point(run / _FOLDER / "last.json", folder.name)
    kept = {best_of(run), *_steps(run)[-keep:]}
    for old in _steps(run):
        if old not in kept:
            shutil.rmtree(old)
    return folder


def best_of(run: Path) -> Path | None:
    """Give the best checkpoint of a run."""
    file = run / _FOLDER / "best.json"
    return run / _FOLDER / json.loads(file.read_text())["folder"] if file.is_file() else None


def last_state(run: Path) -> State | None:
    """Read the last checkpoint of a run that is whole; None where there is none.

    Raises:
        IntegrityError: there are checkpoints, and all are damaged.
    """
    found = _steps(run)
    for folder in reversed(found):
        try:
            return read_state(folder)
        except (IntegrityError, Problems):
            continue
    if found:
        raise IntegrityError(
            str(run / _FOLDER), "a checkpoint that is whole", f"{len(found)} damaged ones",
            "begin again without --resume, into another run",
        )  # fmt: skip
    return None


def _steps(run: Path) -> list[Path]:
    return sorted(path for path in (run / _FOLDER).glob("step-*") if path.is_dir())


def _point(file: Path, name: str) -> None:
    """Let a pointer name a folder, in one step."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"folder": name}) + "\n", encoding="utf-8")
    os.replace(part, file)
