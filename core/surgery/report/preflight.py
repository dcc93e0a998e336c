"""Show what a preflight found."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from surgery.report.outcome import verdict_json, verdict_text

if TYPE_CHECKING:
    from surgery.training.preflight import Preflight


def preflight_json(found: Preflight) -> dict[str, Any]:
    """Give what was found as JSON values; memory in bytes."""
    need = None if found.need is None else {**asdict(found.need), "total": found.need.total}
    return {**verdict_json(found.checks), "memory": need}


def preflight_text(found: Preflight) -> str:
    """Give what was found as text, a line for each point."""
    return verdict_text(found.checks)
