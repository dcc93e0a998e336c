"""Curves over the steps of a training, as SVG that a screen reader can read too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, log10
from typing import TYPE_CHECKING

from surgery.report.html.markup import filled
from surgery.report.html.numbers import powers, thinned, ticks, written

if TYPE_CHECKING:
    from markupsafe import Markup

Point = tuple[float, float]
"""A step, and a value."""

WIDTH, HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 12, 30
CURVES = 8
"""Curves of one chart; the table below it has the rest."""
_POINTS, _ROWS, _SPREAD = 400, 12, 50


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: what it is of.
        points: its values, by step.
    """

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """Some curves over the same steps.

    Attributes:
        title: what they show.
        unit: what the numbers are.
        series: the curves.
        log: True where powers of ten may stand at equal distances.
    """

    title: str
    unit: str
    series: tuple[Series, ...]
    log: bool = False


@dataclass(frozen=True)
class Scale:
    """Turn numbers into places.

    Attributes:
        low: the number that stands at ``start``.
        high: the number that stands at ``stop``.
        start: a place in pixels.
        stop: a place in pixels.
        log: True for powers of ten at equal distances.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, number: float) -> float:
        """Give the place of a number, in pixels."""
        low, high, at = self.low, self.high, number
        if self.log:
            low, high, at = log10(low), log10(high), log10(number)
        return round(self.start + (at - low) / (high - low) * (self.stop - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Give place and text of round numbers."""
        marks = powers(self.low, self.high) if self.log else ticks(self.low, self.high)
        return [(self(number), written(number)) for number in marks]


def chart_html(chart: Chart, number: int) -> Markup:
    """Draw a chart, with its numbers in a table that unfolds.

    Args:
        chart: what to draw; it has at least one point that is finite.
        number: tells it from others on the page.
    """
    shown = chart.series[:CURVES]
    x, y = _scales(chart, shown)
    curves = [(place, one.name, list(_runs(one, x, y))) for place, one in enumerate(shown)]
    return filled(
        "chart.html", chart=chart, number=number, x=x.ticks(), y=y.ticks(), curves=curves,
        description=describe(chart), steps=list(_table(chart)), left=len(chart.series) - len(shown),
        width=WIDTH, height=HEIGHT, edges=(_LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM),
    )  # fmt: skip


def describe(chart: Chart) -> str:
    """Say in words what the curves do."""
    parts = []
    for one in chart.series[:CURVES]:
        points = _finite(one)
        if points:
            (first, start), (last, end) = points[0], points[-1]
            values = f"{written(start)} at step {written(first)}, {written(end)} at {written(last)}"
            parts.append(f"{one.name}: {values}")
        lost = len(one.points) - len(points)
        if lost:
            parts.append(f"{one.name}: {lost} values are not finite")
    return "; ".join(parts)


def _finite(series: Series) -> list[Point]:
    return [point for point in series.points if isfinite(point[1])]


def _scales(chart: Chart, shown: Sequence[Series]) -> tuple[Scale, Scale]:
    """Give the scales of steps and of values; neither is empty."""
    points = [point for one in shown for point in _finite(one)]
    steps, values = [p[0] for p in points], [p[1] for p in points]
    log = chart.log and min(values) > 0 and max(values) / min(values) > _SPREAD
    low, high = min(values), max(values)
    if low == high:
        low, high = low - max(abs(low) * 0.1, 1e-12), high + max(abs(high) * 0.1, 1e-12)
    first, last = min(steps), max(steps)
    across = Scale(first, max(last, first + 1), _LEFT, WIDTH - _RIGHT)
    return across, Scale(low, high, HEIGHT - _BOTTOM, _TOP, log)


def _runs(series: Series, x: Scale, y: Scale) -> Iterator[list[tuple[float, float]]]:
    """Give the places of a curve, broken where a value is not finite."""
    run: list[Point] = []
    for point in (*series.points, (0.0, float("nan"))):
        if isfinite(point[1]):
            run.append(point)
        elif run:
            yield [(x(step), y(value)) for step, value in thinned(run, _POINTS)]
            run = []


def _table(chart: Chart) -> Iterator[tuple[str, list[str]]]:
    """Give some steps with the value of each curve, the first and the last among them."""
    known = [dict(one.points) for one in chart.series]
    steps = sorted({step for values in known for step in values})
    count = min(_ROWS, len(steps))
    places = {round(n * (len(steps) - 1) / max(1, count - 1)) for n in range(count)}
    for place in sorted(places):
        step = steps[place]
        found = (values.get(step) for values in known)
        yield written(step), ["" if v is None else _number(v) for v in found]


def _number(value: float) -> str:
    return written(value) if isfinite(value) else "not finite"
