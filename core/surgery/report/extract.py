"""Show what was extracted: the rank and the error of each weight, layers folded."""

from __future__ import annotations

from collections.abc import Iterator

from surgery.flow.extract import Extracted
from surgery.operate.expressing import Fit
from surgery.report.plan import NUMBER, fold


def extract_lines(made: Extracted, limit: int = 40) -> list[str]:
    """Give what was extracted as lines of text.

    Args:
        made: what was extracted.
        limit: lines shown for weights, and for notes.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[Fit]] = {}
    for fit in made.fits:
        groups.setdefault((NUMBER.sub("#", fit.path), fit.shape), []).append(fit)
    weights = [f"  {_line(group)}" for group in groups.values()]
    notes = [f"note: {note}" for note in made.notes]
    count = len(made.fits)
    return [
        f"{made.use} at {count} weight{'' if count == 1 else 's'}:",
        *_shortened(weights, limit),
        *_shortened(notes, limit),
        f"written to {made.folder}",
    ]


def _line(group: list[Fit]) -> str:
    ranks = sorted({fit.rank for fit in group})
    errors = sorted(fit.error for fit in group)
    rank = f"{ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "")
    low, high = f"{errors[0]:.2g}", f"{errors[-1]:.2g}"
    error = low if low == high else f"{low} to {high}"
    shape = ", ".join(map(str, group[0].shape))
    return f"{fold(fit.path for fit in group)} [{shape}] rank {rank}, relative error {error}"


def _shortened(lines: list[str], limit: int) -> Iterator[str]:
    yield from lines[:limit]
    if len(lines) > limit:
        yield f"... and {len(lines) - limit} more lines; --json has all"
