"""Show what an apply made, so that a newcomer understands it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from surgery.checkpoint.remote import listing
from surgery.checkpoint.urls import RemoteFolder
from surgery.checks.check import FAILED, PASSED, SKIPPED, WARNED, Check
from surgery.flow.recipe import Outcome
from surgery.report.console import rendered
from surgery.report.plan import human_bytes, plan_tree


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Give the outcome as JSON values."""
    return {
        "folder": str(outcome.folder),
        "mode": None if outcome.mode is None else str(outcome.mode),
        "plan": outcome.plan.to_json(),
        "checks": [check.to_json() for check in outcome.checks],
        "files": _files(outcome),
    }


def outcome_text(outcome: Outcome) -> str:
    """Give the outcome as text: the plan, the proof, the files and what to do next."""
    files = [f"  {name}  {human_bytes(size)}" for name, size in _files(outcome).items()]
    return "\n".join(
        [
            rendered(plan_tree(outcome.plan)),
            "",
            "proof:",
            *check_lines(outcome.checks),
            "",
            f"written to {outcome.folder}:",
            *files,
            "",
            f'load it with: python -c "import surgery; '
            f"print(surgery.load('{outcome.folder}').model)\"",
        ]
    )


def check_lines(checks: Iterable[Check]) -> list[str]:
    """Give a line for each check."""
    marks = {PASSED: "ok  ", FAILED: "FAIL", WARNED: "warn"}
    return [
        f"  {marks.get(c.status, 'skip')}  {c.name}" + (f": {c.detail}" if c.detail else "")
        for c in checks
    ]


def verdict_json(checks: Iterable[Check]) -> dict[str, Any]:
    """Give the checks of a folder as JSON values, and how many ended how."""
    listed = list(checks)
    return {"checks": [check.to_json() for check in listed], "counts": _counts(listed)}


def verdict_text(checks: Iterable[Check]) -> str:
    """Give the checks of a folder as text, a line for each, and what they come to."""
    listed = list(checks)
    return "\n".join([*check_lines(listed), "", tally(listed)])


def tally(checks: Iterable[Check]) -> str:
    """Say how many checks ended how, such as ``3 passed, 1 skipped``."""
    counts = _counts(list(checks))
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def _counts(checks: Sequence[Check]) -> dict[str, int]:
    """Count the checks that ended in each way."""
    ways = (PASSED, WARNED, FAILED, SKIPPED)
    return {way: sum(check.status == way for check in checks) for way in ways}


def _files(outcome: Outcome) -> dict[str, int]:
    if isinstance(outcome.folder, RemoteFolder):
        found = listing(outcome.folder.url, deep=True) or {}
        return {name: file.size for name, file in sorted(found.items())}
    return {
        str(path.relative_to(outcome.folder)): path.stat().st_size
        for path in sorted(outcome.folder.rglob("*"))
        if path.is_file()
    }
