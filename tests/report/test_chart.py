"""Laws of curves: they are drawn inside their frame, whatever the numbers, and lose no peak."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.report.html.chart import CURVES, HEIGHT, WIDTH, Chart, Series, chart_html
from surgery.report.html.guards import guard_rows
from surgery.report.html.metrics import Metrics, read_metrics
from surgery.report.html.numbers import powers, thinned, ticks
from tests.report.strict import strictly

VALUES = st.floats(min_value=-1e100, max_value=1e100) | st.just(float("nan"))
POINTS = st.lists(st.tuples(st.integers(0, 10**6), VALUES), min_size=1, max_size=40)


def places(page: str) -> list[tuple[float, float]]:
    found = re.findall(r'(?<=[" ])(-?[0-9.e+-]+),(-?[0-9.e+-]+) ', page)
    found += re.findall(r'cx="([^"]+)" cy="([^"]+)"', page)
    return [(float(x), float(y)) for x, y in found]


@settings(max_examples=60, deadline=None)
@given(POINTS, st.booleans())
def test_any_numbers_are_drawn_inside_the_frame(
    points: list[tuple[float, float]], log: bool
) -> None:
    table = {float(step): 0.0 if abs(value) < 1e-100 else value for step, value in points}
    if all(value != value for value in table.values()):
        return
    chart = Chart("t", "u", (Series("one", tuple(sorted(table.items()))),), log)
    page = chart_html(chart, 0)
    strictly(page)
    found = places(page)
    assert len(found) == sum(value == value for value in table.values())
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in found)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000), st.integers(10, 200))
def test_thinning_keeps_the_highest_and_the_lowest(values: list[float], most: int) -> None:
    points = [(float(n), value) for n, value in enumerate(values)]
    kept = thinned(points, most)
    assert kept == sorted(kept)
    assert set(kept) <= set(points)
    assert len(kept) <= most + 2
    assert {max(values), min(values)} <= {value for _, value in kept}


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9))
def test_ticks_are_few_and_inside(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 7
    slack = width * 1e-6
    assert all(low - slack <= one <= low + width + slack for one in found)


def test_powers_of_ten_are_few() -> None:
    assert powers(1e-3, 10) == [1e-3, 1e-2, 1e-1, 1, 10]
    assert len(powers(1e-100, 1e100)) <= 7


def test_a_higher_value_stands_higher_and_a_gap_stays_a_gap() -> None:
    points = ((1.0, 1.0), (2.0, 3.0), (3.0, float("nan")), (4.0, 2.0))
    page = chart_html(Chart("t", "u", (Series("one", points),)), 0)
    (_, low), (_, high), (_, middle) = places(page)
    assert high < middle < low
    assert page.count("<polyline") == 1
    assert page.count("<circle") == 1
    assert "one: 1 values are not finite" in page
    assert "not finite</td>" in page


def test_many_curves_are_in_the_table() -> None:
    series = tuple(Series(f"group{n}", ((1.0, n), (2.0, n))) for n in range(CURVES + 3))
    text = strictly(chart_html(Chart("t", "u", series), 0)).text
    assert "and 3 more in the table" in text
    assert f"group{CURVES + 2}" in text


def metrics(folder: Path, *lines: object) -> Metrics:
    file = folder / "metrics.jsonl"
    file.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
    return read_metrics(file)


def test_a_step_that_was_done_again_counts_once_as_it_was_last(tmp_path: Path) -> None:
    found = metrics(
        tmp_path, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 9.0}, {"begun": {}},
        {"step": 2, "loss": 1.0}, '{"step": 3, "los',
    )  # fmt: skip
    assert found.charts[0].series[0].points == ((1.0, 2.0), (2.0, 1.0))
    assert (found.broken, found.ended, len(found.begun)) == (1, {}, 1)


@pytest.mark.parametrize(
    "line",
    [
        "[]", "null", '"x"', "{}", '{"step": "a", "loss": 1}', '{"step": 1, "loss": NaN}',
        '{"step": 1, "loss": {}}', '{"step": 1, "loss": 1e999, "norms": 5, "lr": {"a": "b"}}',
        '{"step": 1, "evaluation": 3}', '{"begun": 4}', '{"ended": [1]}', "[" * 100_000,
    ],
)  # fmt: skip
def test_odd_records_draw_nothing_and_break_nothing(tmp_path: Path, line: str) -> None:
    found = metrics(tmp_path, line)
    assert found.charts == ()
    assert dict(found.ended) == {}


def test_every_metric_has_a_chart_of_training_and_evaluation(tmp_path: Path) -> None:
    found = metrics(
        tmp_path, {"step": 1, "loss": 2.0, "iou": 0.1}, {"step": 1, "evaluation": {"iou": 0.3}}
    )  # fmt: skip
    iou = next(chart for chart in found.charts if chart.title == "iou")
    assert {s.name: s.points for s in iou.series} == {
        "training": ((1.0, 0.1),), "evaluation": ((1.0, 0.3),),
    }  # fmt: skip


def test_silence_of_a_guard_is_no_proof_where_it_never_looked(tmp_path: Path) -> None:
    short = metrics(tmp_path, {"begun": {"processes": 1}}, {"step": 3, "loss": 1.0})
    found = {name: said for name, _, said in guard_rows(short, {"held": "off"})}
    assert found["moved"].startswith("not checked")
    assert found["ranks"].startswith("not checked")
    assert found["held"].startswith("off")
    assert found["loss"] == "found nothing up to step 3"
    empty = {name: said for name, _, said in guard_rows(metrics(tmp_path, {}), {})}
    assert empty["loss"].startswith("not checked")
    failed = {"ended": {"how": "failed", "why": "train: guard loss: expected"}}
    said = guard_rows(metrics(tmp_path, {"step": 1, "loss": 1.0}, failed), {})
    assert ("loss", "error", "train: guard loss: expected") in said
