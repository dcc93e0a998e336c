"""Show a plan together with the contracts that its result must keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgery.checks.check import Check
from surgery.operate.plan import Plan
from surgery.report.console import rendered
from surgery.report.outcome import check_lines
from surgery.report.plan import plan_tree


def planned_json(plan: Plan, checks: Sequence[Check]) -> dict[str, Any]:
    """Give a plan and the checks of its contracts as JSON values."""
    return {**plan.to_json(), "checks": [check.to_json() for check in checks]}


def planned_text(plan: Plan, checks: Sequence[Check]) -> str:
    """Give a plan and the checks of its contracts as text."""
    return "\n".join([rendered(plan_tree(plan)), "", *check_lines(checks)])
