"""Killed at fifty random moments, in one process and in two, a training goes on bit by bit.

Workers are forked from a server that has imported everything, so that a start costs little.
"""

from __future__ import annotations

import multiprocessing as mp
import random
import re
import socket
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

from surgery.hooks.registry import Registry
from tests.training.conftest import PLUGIN, SURGERIES, recipe_of
from tests.training.test_processes import curve
from tests.training.test_run import equal, tensors

KILLS = 25
"""In one process, and once more in two."""

STEPS = 10 * KILLS
PLACES = mp.get_context("forkserver")
PLACES.set_forkserver_preload(["tests.training.killed"])
DROPOUT = [SURGERIES[0], {**SURGERIES[1], "with": {"rank": 4, "dropout": 0.2}}]


def started(recipe: Path, count: int, *, resume: bool) -> list[BaseProcess]:
    """Start the processes of a run, as a launcher would."""
    from tests.training.killed import train

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    family: list[BaseProcess] = [
        PLACES.Process(target=train, args=(recipe, PLUGIN, rank, count, port, resume))
        for rank in range(count)
    ]
    for one in family:
        one.start()
    return family


def kill(family: list[BaseProcess]) -> None:
    """Kill processes and their data workers, in an order that chance gives."""
    found = []
    for one in family:
        if one.pid is not None and psutil.pid_exists(one.pid):
            process = psutil.Process(one.pid)
            found += [*process.children(recursive=True), process]
    random.shuffle(found)
    for process in found:
        process.kill()
    for one in family:
        one.join()


def ended(family: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    until = time.monotonic() + seconds
    for one in family:
        one.join(max(0.1, until - time.monotonic()))
    return [one.exitcode for one in family]


def done(run: Path) -> int:
    """Give the last step that was recorded."""
    file = run / "metrics.jsonl"
    found = re.findall(r'"step": (\d+),', file.read_text()) if file.is_file() else []
    return max(map(int, found), default=0)


def wait(family: list[BaseProcess], run: Path, step: int) -> None:
    """Wait until a step is recorded, or the processes are at their end."""
    until = time.monotonic() + 120
    while done(run) < step and all(one.is_alive() for one in family):
        assert time.monotonic() < until, f"no step {step} in {run}"
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2], ids=["one process", "two processes"])
def test_killed_at_any_moment_it_goes_on_bit_by_bit(
    base: Path, tmp_path: Path, known: Registry, count: int
) -> None:
    settings: dict[str, Any] = {
        "steps": STEPS, "micro": 2, "workers": 1, "save": {"every": 2, "keep": 2},
        "surgeries": DROPOUT, "ema": {"decay": 0.9}, "guards": {"moved": "off"},
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    recipe_of(tmp_path, known, output="./whole", **settings)
    assert ended(started(file, count, resume=False)) == [0] * count
    recipe_of(tmp_path, known, output="./killed", **settings)
    run, dice, kills = tmp_path / "killed-run", random.Random(count), 0
    for attempt in range(KILLS):
        family = started(file, count, resume=attempt > 0)
        if attempt % 5 == 4:  # while it starts, wherever it is by then
            time.sleep(dice.uniform(0, 0.5))
        else:
            wait(family, run, done(run) + dice.randrange(1, 6))
            time.sleep(dice.uniform(0, 0.03))
        kills += all(one.is_alive() for one in family)
        kill(family)
    last = started(file, count, resume=True)
    assert ended(last) == [0] * count
    assert kills == KILLS, "every one must have been killed while it was at work"
    assert curve(run) == curve(tmp_path / "whole-run")
    assert len(curve(run)) == STEPS
    assert equal(tensors(tmp_path / "killed"), tensors(tmp_path / "whole"))
