"""Interleaved rounds: every candidate once per round, medians and spread over the rounds."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from statistics import median


def rounds(
    candidates: Mapping[str, Callable[[], object]],
    count: int,
    prepare: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, dict[str, float]]:
    """Time candidates side by side.

    Args:
        candidates: what to time, by name; called without arguments, or with what ``prepare`` gave.
        count: how many rounds are counted, after one that is not.
        prepare: makes a fresh input before each call, outside the timing.
        clock: seconds; CPU time of the process unless told otherwise.

    Returns:
        For each candidate ``median``, ``min`` and ``max`` in milliseconds.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(count + 1):
        for name, call in candidates.items():
            given = (prepare(),) if prepare else ()
            gc.collect()
            start = clock()
            call(*given)
            spent = (clock() - start) * 1e3
            if number:
                times[name].append(spent)
    return {
        name: {"median": round(median(t), 3), "min": round(min(t), 3), "max": round(max(t), 3)}
        for name, t in times.items()
    }
