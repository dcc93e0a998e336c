"""What must never happen, as the tests that look for it: mistakes, crashes, resumes (12 to 14)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import run as run_process
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

ROWS = {
    "silent mistakes that PEFT lets pass (12)": ["tests/peft/test_mistakes.py"],
    "one changed byte in any file is found (13)": ["tests/flow/test_verify.py"],
    "writers killed at any moment (13)": [
        "tests/checkpoint/test_kill.py", "tests/stream/test_kill.py",
    ],
    "trainings killed and resumed, bit by bit (14)": [
        "tests/training/test_run.py", "tests/training/test_kills.py",
    ],
}  # fmt: skip


def run(*, quick: bool = False) -> dict[str, Any]:
    """Run the tests of all rows; quick: of the first file each, what the default suite runs."""
    files = {what: all_of[:1] if quick else all_of for what, all_of in ROWS.items()}
    found = _ran([one for some in files.values() for one in some], quick)
    rows = [{"what": what, **_counted(found, some)} for what, some in files.items()]
    broken = [row["what"] for row in rows if row["failed"] or not row["passed"]]
    return {
        "what": "laws that hold or do not, as tests",
        "rows": rows,
        "verdicts": [f"goal 0 failures: {'missed: ' + ', '.join(broken) if broken else 'met'}"],
    }


def _ran(files: list[str], quick: bool) -> list[ElementTree.Element]:
    """Give the report of each test; a file that cannot be imported is a test with an error."""
    marks = "not slow" if quick else "slow or not slow"
    with TemporaryDirectory() as folder:
        told = Path(folder) / "told.xml"
        run_process(
            [sys.executable, "-m", "pytest", "-q", "-m", marks, f"--junitxml={told}", *files],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False,
        )  # fmt: skip
        return list(ElementTree.parse(told).iter("testcase"))


def _counted(found: list[ElementTree.Element], files: list[str]) -> dict[str, Any]:
    modules = tuple(file.removesuffix(".py").replace("/", ".") for file in files)
    mine = [one for one in found if _module_of(one) in modules]
    failed = sum(one.find("failure") is not None or one.find("error") is not None for one in mine)
    skipped = sum(one.find("skipped") is not None for one in mine)
    seconds = round(sum(float(one.attrib["time"]) for one in mine), 1)
    return {"passed": len(mine) - failed - skipped, "failed": failed, "skipped": skipped,
            "s": seconds}  # fmt: skip


def _module_of(test: ElementTree.Element) -> str:
    """Give the module of a test; of one that cannot be imported, its name holds it."""
    return test.attrib["classname"] or test.attrib["name"]
