"""Run commands side by side, and measure time and memory of their whole process trees."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

PAUSE = 0.02
"""Seconds between two looks at a process tree's memory."""

_LAST = 400


class CommandError(Exception):
    """Say that a command ended badly, and with which words."""


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        wall: seconds that passed.
        cpu: seconds of CPU, user and system, of all its processes.
        rss: peak resident memory in MB, file pages included.
        anon: peak anonymous memory in MB.
    """

    wall: float
    cpu: float
    rss: float
    anon: float


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end.

    Wall time counts until the command ends; what the system writes to the disk later does not.

    Args:
        command: program and arguments.
        environment: variables to set for it.

    Raises:
        CommandError: it did not end well.
    """
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
        peaks = [0.0, 0.0]
        while True:
            found, status, used = os.wait4(process.pid, os.WNOHANG)
            if found:
                break
            peaks = [max(pair) for pair in zip(peaks, _memory(process.pid), strict=True)]
            time.sleep(PAUSE)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise CommandError(output.read().decode(errors="replace").strip()[-_LAST:])
    return Cost(wall, used.ru_utime + used.ru_stime, *peaks)


def _memory(root: int) -> tuple[float, float]:
    """Give resident and anonymous memory of a process and all its children, in MB."""
    resident = anonymous = 0
    for pid in _tree(root):
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        kind = "VmHWM" if pid == root else "VmRSS"  # the kernel saw the first one's own peak
        resident += int(fields.get(kind, "0 kB").split()[0])
        anonymous += int(fields.get("RssAnon", "0 kB").split()[0])
    return resident * 1.024e-3, anonymous * 1.024e-3


def _tree(root: int) -> Iterator[int]:
    """Give a process and its descendants."""
    yield root
    try:
        for task in os.listdir(f"/proc/{root}/task"):
            for child in Path(f"/proc/{root}/task/{task}/children").read_text().split():
                yield from _tree(int(child))
    except OSError:
        return


def compare(
    commands: Mapping[str, Sequence[str]],
    count: int,
    after: Callable[[], object],
    environment: Mapping[str, str] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Run each command once per round, the disk at rest before each.

    Args:
        commands: what to run, by name.
        count: how many rounds are counted.
        after: called after each command, to remove what it wrote.
        environment: variables to set for all.

    Returns:
        A row for each, with every round and the medians; and why a command could not run.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    failures: dict[str, str] = {}
    for _ in range(count):
        for name in [name for name in commands if name not in failures]:
            os.sync()
            try:
                cost = measure(commands[name], environment)
            except (CommandError, OSError) as error:
                failures[name] = str(error)
                continue
            finally:
                after()
            costs[name].append(cost)
            print(f"  {name}: {cost.wall:.1f} s, {cost.cpu:.1f} s of CPU", file=sys.stderr)
    return [{"what": name, **_row(found)} for name, found in costs.items() if found], failures


def _row(costs: Sequence[Cost]) -> dict[str, Any]:
    """Give wall and CPU seconds of each round and their median, and the largest memory in MB."""
    table = [asdict(cost) for cost in costs]
    row: dict[str, Any] = {}
    for key in ("wall", "cpu"):
        values = [round(one[key], 2) for one in table]
        row |= {f"{key}_s": round(median(values), 2), f"{key}_rounds": values}
    return row | {f"{key}_mb": round(max(one[key] for one in table)) for key in ("rss", "anon")}
