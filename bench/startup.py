"""Start-up: ``surgery --help`` beside plain Python and the libraries that it stands on."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from bench.rounds import rounds

COMMANDS = {
    "surgery --help": ("-m", "surgery", "--help"),
    "surgery plugins": ("-m", "surgery", "plugins", "--quiet"),
    "python": ("-c", "pass"),
    "import click, pydantic": ("-c", "import click, pydantic"),
    "import torch": ("-c", "import torch"),
}
"""What is started, by name; ours first."""

DISCOVERY = """
import time
from surgery.hooks import discover
start = time.process_time()
discover.discover({})
print((time.process_time() - start) * 1e3)
"""

CPU_GOAL, RATIO_GOAL, WALL_GOAL, DISCOVERY_GOAL = 120.0, 2.0, 400.0, 10.0
"""Milliseconds of CPU, ratio to ``import click, pydantic``, milliseconds of wall and CPU."""


def run(quick: bool = False) -> dict[str, Any]:
    """Measure CPU and wall time of starting each command, in interleaved rounds.

    Args:
        quick: True for fewer rounds.

    Returns:
        ``rows`` with medians and spreads in milliseconds by command, and ``verdicts``.
    """
    count = 2 if quick else 15
    starts: dict[str, Callable[[], object]] = {
        name: partial(_start, arguments) for name, arguments in COMMANDS.items()
    }
    cpu = rounds(starts, count, clock=_children)
    wall = rounds({"surgery --help": starts["surgery --help"]}, count, clock=time.perf_counter)
    found = median(float(_output(("-c", DISCOVERY))) for _ in range(count))
    limit = cpu["import click, pydantic"]["median"]
    rows = [
        {"command": name, "cpu_ms": figures, "over_click_pydantic": figures["median"] / limit}
        for name, figures in cpu.items()
    ]
    measured = {
        "help_cpu_ms": (cpu["surgery --help"]["median"], CPU_GOAL),
        "help_over_click_pydantic": (cpu["surgery --help"]["median"] / limit, RATIO_GOAL),
        "help_wall_ms": (wall["surgery --help"]["median"], WALL_GOAL),
        "discovery_cpu_ms": (found, DISCOVERY_GOAL),
    }
    return {
        "what": "CPU time of starting a process, children's user and system time",
        "rows": rows,
        "verdicts": [_verdict(name, *pair) for name, pair in measured.items()],
        "help_imports_torch": "torch" in imported(("--help",)),
    }


def imported(arguments: Sequence[str]) -> set[str]:
    """Give the modules that a command imports, by running it with ``-X importtime``."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "surgery", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip() for line in lines}


def _verdict(name: str, value: float, goal: float) -> str:
    return f"{name}: {value:.2f}, goal <= {goal:g}: {'met' if value <= goal else 'NOT met'}"


def _output(arguments: Sequence[str]) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def _start(arguments: Sequence[str]) -> None:
    subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def _children() -> float:
    """Give the CPU seconds of all processes that were waited for so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
