"""Where the axis of a chart has its ticks, and how numbers are written there."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Give round numbers between two, at steps of 1, 2 or 5 times a power of ten.

    Args:
        low: the least number.
        high: the greatest; above ``low``.
        count: about how many.
    """
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next((m * power for m in (1, 2, 5) if m * power >= rough), 10 * power)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def powers(low: float, high: float, count: int = 6) -> list[float]:
    """Give powers of ten between two positive numbers, at most about ``count``."""
    first, last = ceil(log10(low) - 1e-9), floor(log10(high) + 1e-9)
    stride = max(1, ceil((last - first + 1) / count))
    return [10.0**number for number in range(first, last + 1, stride)]


def written(number: float) -> str:
    """Write a number with four digits that matter."""
    if number == int(number) and abs(number) < 1e6:
        return f"{int(number):,}"
    return f"{number:.4g}"


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Keep the least and the greatest of each stretch, so that no peak is lost.

    Args:
        points: pairs of step and value, in order.
        most: about how many to keep.
    """
    if len(points) <= most:
        return list(points)
    size = ceil(len(points) / (most / 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        ends = {part.index(min(part, key=_value)), part.index(max(part, key=_value))}
        kept += [part[n] for n in sorted(ends)]
    return kept


def _value(point: tuple[float, float]) -> float:
    return point[1]
