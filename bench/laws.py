"""What must never happen, as the tests that look for it: mistakes, crashes, resumes (12 to 14)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import run as run_process
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from xml.etree import ElementTree

ROWS = {
    "silent mistakes that PEFT lets pass (12)": ["tests/peft/test_mistakes.py"],
    "one changed byte in any file is found (13)": ["tests/flow/test_verify.py"],
    "writers killed at any moment (13)": [
        "tests/checkpoint/test_kill.py", "tests/stream/test_kill.py",
    ],
    "trainings killed and resumed, bit by bit (14)": [
        "tests/training/test_kills.py", "tests/training/test_run.py",
    ],
}  # fmt: skip


def run(*, quick: bool = False) -> dict[str, Any]:
    """Run the tests of each row; quick: those that the default suite runs."""
    rows = [{"what": what, **_passed(files, quick)} for what, files in ROWS.items()]
    broken = [row["what"] for row in rows if row["failed"] or not row["passed"]]
    return {
        "what": "laws that hold or do not, as tests",
        "rows": rows,
        "verdicts": [f"goal 0 failures: {'missed: ' + ', '.join(broken) if broken else 'met'}"],
    }


def _passed(files: list[str], quick: bool) -> dict[str, Any]:
    marks = "not slow" if quick else "slow or not slow"
    began = perf_counter()
    with TemporaryDirectory() as folder:
        told = Path(folder) / "told.xml"
        run_process(
            [sys.executable, "-m", "pytest", "-q", "-m", marks, f"--junitxml={told}", *files],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False,
        )  # fmt: skip
        suite = ElementTree.parse(told).getroot()[0].attrib
    failed = int(suite["failures"]) + int(suite["errors"])
    passed = int(suite["tests"]) - failed - int(suite["skipped"])
    seconds = round(perf_counter() - began, 1)
    return {"passed": passed, "failed": failed, "skipped": int(suite["skipped"]), "s": seconds}
