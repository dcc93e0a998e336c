"""Show what an apply made, so that a newcomer understands it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from surgery.checks.check import FAILED, PASSED, Check
from surgery.flow.recipe import Outcome
from surgery.report.console import rendered
from surgery.report.plan import human_bytes, plan_tree


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Give the outcome as JSON values."""
    return {
        "folder": str(outcome.folder),
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
    marks = {PASSED: "ok  ", FAILED: "FAIL"}
    return [
        f"  {marks.get(c.status, 'skip')}  {c.name}" + (f": {c.detail}" if c.detail else "")
        for c in checks
    ]


def _files(outcome: Outcome) -> dict[str, int]:
    return {
        str(path.relative_to(outcome.folder)): path.stat().st_size
        for path in sorted(outcome.folder.rglob("*"))
        if path.is_file()
    }
