"""What a run writes down besides numbers: how it began, what was remarked, how it ended."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import torch

from surgery.checks.check import Check
from surgery.errors import SurgeryError
from surgery.flow.files import RECIPE
from surgery.operate.journal import versions
from surgery.recipe.recipe import Recipe
from surgery.training.records import FILE, Records
from surgery.training.setup import Setup
from surgery.training.strategy import World


def write_begin(records: Records, recipe: Recipe, setup: Setup, target: Path, world: World) -> None:
    """Record what a run runs on, and keep its recipe beside the records.

    Args:
        records: of the run.
        recipe: what to do.
        setup: what the recipe says of training.
        target: the folder of the result.
        world: the processes.
    """
    (setup.folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    device = world.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    records.write(
        {
            "begun": {
                "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "output": os.path.relpath(target.resolve(), setup.folder.resolve()),
                "device": name, "processes": world.size, "threads": torch.get_num_threads(),
                "strategy": setup.form.strategy, "precision": setup.form.precision,
                "objective": setup.objective.name, "data": [one.name for one in setup.data],
                "versions": versions(),
            }
        }
    )  # fmt: skip


def remarking(records: Records | None, remark: Callable[[str], object]) -> Callable[[str], object]:
    """Let remarks be recorded too."""

    def both(text: str) -> None:
        remark(text)
        if records is not None:
            records.write({"remark": text})

    return both


@contextmanager
def failures(records: Records | None) -> Iterator[None]:
    """Record an error that ends a run."""
    try:
        yield
    except SurgeryError as error:
        if records is not None:
            records.write({"ended": {"how": "failed", "why": str(error)}})
        raise


def write_end(records: Records | None, ended: str, checks: Sequence[Check]) -> None:
    """Record how a run ended, and the proof of its result."""
    if records is not None:
        proof = [check.to_json() for check in checks]
        records.write({"ended": {"how": ended, "checks": proof}})


def how_it_ended(run: Path) -> str | None:
    """Say how a run ended the last time that it did: ``done``, ``stopped`` or ``patience``."""
    file = run / FILE
    if not file.is_file():
        return None
    ends = [json.loads(line) for line in file.read_text("utf-8").splitlines() if '"ended"' in line]
    found = [one["ended"] for one in ends if isinstance(one.get("ended"), dict)]
    return str(found[-1]["how"]) if found and "how" in found[-1] else None
