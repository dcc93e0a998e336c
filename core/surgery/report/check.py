"""Show what a check of a recipe found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from surgery.checks.check import FAILED, SKIPPED
from surgery.flow.check import Examined
from surgery.operate.family import Violation
from surgery.report.outcome import check_lines, tally, verdict_json


def examined_json(found: Examined) -> dict[str, Any]:
    """Give what was found as JSON values."""
    rehearsal = found.rehearsal
    return {
        **verdict_json(found.checks),
        "complete": found.complete,
        "violations": [{"family": name, **one.to_json()} for name, one in found.violations],
        "inputs": dict(rehearsal.inputs) if rehearsal else {},
        "outputs": dict(rehearsal.outputs) if rehearsal else {},
    }


def examined_text(found: Examined) -> str:
    """Give what was found as text: each broken contract, then a line for each check."""
    blocks = [line for name, one in found.violations for line in _block(name, one)]
    return "\n".join([*blocks, *check_lines(_short(found)), "", tally(found.checks)])


def _block(family: str, one: Violation) -> Iterator[str]:
    yield f"{family}: {one.contract} at {one.where}"
    yield f"  expected  {one.wanted}"
    yield f"  found     {one.found}"
    if one.instead:
        yield f"  instead   {one.instead}"
    yield ""


def _short(found: Examined) -> Iterator[Any]:
    """Give the checks; what stands above in full is counted."""
    from dataclasses import replace

    for check in found.checks:
        count = sum(check.name == f"contracts of {name}" for name, _ in found.violations)
        yield replace(check, detail=f"{count} broken, see above") if count else check


def complaint(found: Examined) -> str:
    """Say in one line what is wrong: what failed first, or else what was not checked."""
    if found.violations:
        more = f" (and {len(found.violations) - 1} more)" if len(found.violations) > 1 else ""
        return f"{found.violations[0][1]}{more}"
    for status in (FAILED, SKIPPED):
        for check in found.checks:
            if check.status == status:
                return f"{'not checked: ' if status == SKIPPED else ''}{check.name}: {check.detail}"
    return ""
