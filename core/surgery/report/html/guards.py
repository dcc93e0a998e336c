"""What the guards of a training found, and which of them never came to look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from surgery.recipe.train_form import Guard
from surgery.report.html.metrics import Metrics
from surgery.training.guards import MOVED

_AT_ONCE = ("doctors", "trainable", "optimizer")


def guard_rows(metrics: Metrics, levels: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Give each guard, its level, and what it found.

    Args:
        metrics: what was recorded.
        levels: of guards that warn, or are off.
    """
    names: tuple[str, ...] = get_args(Guard)
    return [(n, levels.get(n, "error"), _found(n, metrics, levels.get(n, "error"))) for n in names]


def _found(name: str, metrics: Metrics, level: str) -> str:
    if level == "off":
        return "off: nothing was checked"
    why = str(metrics.ended.get("why", ""))
    said = [why] if f"guard {name}" in why else []
    said += [text for text in metrics.remarks if text.startswith(f"{name}: ")]
    return "; ".join(said) or _silent(name, metrics)


def _silent(name: str, metrics: Metrics) -> str:
    """Say what silence means: nothing wrong, or nothing looked at."""
    begun = metrics.begun[-1] if metrics.begun else {}
    if name == "ranks" and begun.get("processes") == 1:
        return "not checked: one process has nothing to compare with"
    if name == "moved" and metrics.steps < MOVED:
        return f"not checked: that is done after {MOVED} steps"
    if name not in _AT_ONCE and not metrics.steps:
        return "not checked: no step was recorded"
    if metrics.ended.get("how") not in ("done", "patience"):
        return f"found nothing up to step {metrics.steps}"
    return "found nothing"
