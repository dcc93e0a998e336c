"""Show what a training made."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from surgery.report.outcome import check_lines

if TYPE_CHECKING:
    from surgery.training.run import Trained


def trained_json(trained: Trained) -> dict[str, Any]:
    """Give the result of a training as JSON values."""
    return {
        "folder": None if trained.folder is None else str(trained.folder),
        "run": str(trained.run),
        "ended": trained.ended,
        "progress": asdict(trained.progress),
        "checks": [check.to_json() for check in trained.checks],
    }


def trained_text(trained: Trained) -> str:
    """Give the result of a training as text."""
    progress = trained.progress
    lines = [f"{trained.ended} after {progress.step} steps, {progress.samples} samples"]
    if progress.best is not None:
        lines.append(f"best {progress.best:.6g} after step {progress.best_step}")
    if progress.failed:
        lines.append(f"{progress.failed} samples could not be used; see metrics.jsonl")
    if trained.checks:
        lines += ["proof:", *check_lines(trained.checks)]
    lines.append(f"run: {trained.run}")
    if trained.folder is not None:
        lines.append(f"written to {trained.folder}")
    return "\n".join(lines)
