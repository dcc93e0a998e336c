"""Read what a training wrote down, as curves and events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgery.checkpoint.strict import readable
from surgery.report.html.chart import Chart, Series

_FIXED = {"step", "loss", "norm", "norms", "moved", "lr", "seconds", "samples", "memory"}
_LARGEST, _LEAST = 1e100, 1e-100
MOST = 40
"""Charts on a page; names of metrics are a stranger's, and so is their number."""

Curves = dict[str, dict[float, float]]
"""Values by step, by the name of the curve."""


@dataclass(frozen=True)
class Metrics:
    """What was recorded of a training.

    Attributes:
        charts: the curves.
        begun: what the training ran on, of each start.
        remarks: what was remarked, guards that warn among it.
        ended: how it ended last; empty while it runs, and after a kill.
        failed: samples that could not be used, and why.
        broken: lines that are no records.
        steps: the last step that was recorded.
    """

    charts: tuple[Chart, ...]
    begun: tuple[Mapping[str, Any], ...] = ()
    remarks: tuple[str, ...] = ()
    ended: Mapping[str, Any] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    broken: int = 0
    steps: int = 0


def read_metrics(file: Path) -> Metrics:
    """Read the records of a run; of a step that was done again, the last numbers count.

    Args:
        file: ``metrics.jsonl``.
    """
    with readable(file):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    records = [_record(line) for line in lines if line.strip()]
    found = [record for record in records if record is not None]
    ends = [one.get("ended", {}) for one in found if {"ended", "begun"} & one.keys()]
    return Metrics(
        charts=tuple(_charts(found)),
        begun=tuple(one["begun"] for one in found if isinstance(one.get("begun"), dict)),
        remarks=tuple(str(one["remark"]) for one in found if "remark" in one),
        ended=ends[-1] if ends and isinstance(ends[-1], dict) else {},
        failed=tuple(
            f"sample {one['failed']}: {one.get('why')}" for one in found if "failed" in one
        ),
        broken=len(records) - len(found),
        steps=max((int(one["step"]) for one in found if _is_step(one)), default=0),
    )


def _record(line: str) -> dict[str, Any] | None:
    """Read one line; None where it is no record, as the last one after a kill."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _charts(records: list[dict[str, Any]]) -> Iterator[Chart]:
    steps = [one for one in records if "loss" in one and _is_number(one.get("step"))]
    judged = [one for one in records if _is_number(one.get("step")) and _table(one, "evaluation")]
    names = [n for one in steps for n, v in one.items() if n not in _FIXED and _is_number(v)]
    names += [name for one in judged for name in one["evaluation"]]
    made = [_metric(name, steps, judged) for name in dict.fromkeys(["loss", *names])]
    made += [
        _grouped("Gradient norm", "before clipping; all, and by group", "norm", "norms", steps),
        _grouped("Update share", "of a step, over the weights, by group", "", "moved", steps),
        _grouped("Learning rate", "by group", "", "lr", steps),
        _plain("Memory", "GiB, the most so far", "memory", steps, 2.0**-30),
        _plain("Time", "seconds of each step", "seconds", steps),
    ]  # fmt: skip
    yield from [chart for chart in made if chart is not None][:MOST]


def _metric(name: str, steps: list[dict[str, Any]], judged: list[dict[str, Any]]) -> Chart | None:
    """Give the chart of a metric, while training and when evaluated."""
    held = [{"step": one["step"], **_table(one, "evaluation")} for one in judged]
    curves = {"training": _curve(name, steps), "evaluation": _curve(name, held)}
    return _chart(name.capitalize() if name == "loss" else name, "by step", curves)


def _grouped(
    title: str, unit: str, whole: str, parts: str, steps: list[dict[str, Any]]
) -> Chart | None:
    """Give the chart of numbers by group, and of the whole where there is one."""
    names = dict.fromkeys(name for one in steps for name in _table(one, parts))
    tables = [{**_table(one, parts), "step": one["step"]} for one in steps]
    curves = {"all": _curve(whole, steps)} if whole else {}
    curves |= {name: _curve(name, tables) for name in names if name != "step"}
    return _chart(title, unit, curves, log=True)


def _plain(
    title: str, unit: str, key: str, steps: list[dict[str, Any]], scale: float = 1.0
) -> Chart | None:
    curve = {step: value * scale for step, value in _curve(key, steps).items()}
    return _chart(title, unit, {title.lower(): curve})


def _chart(title: str, unit: str, curves: Curves, log: bool = False) -> Chart | None:
    """Give a chart of the curves that have something to show; None where none has."""
    series = tuple(
        Series(name, tuple(sorted(curve.items())))
        for name, curve in curves.items()
        if any(value == value for value in curve.values())
    )
    return Chart(title, unit, series, log) if series else None


def _curve(key: str, records: list[dict[str, Any]]) -> dict[float, float]:
    found = {float(one["step"]): one.get(key) for one in records}
    return {step: _tamed(value) for step, value in found.items() if _is_number(value)}


def _tamed(value: Any) -> float:
    """Give a number that can be drawn: none that is enormous, none that is all but zero."""
    if abs(value) > _LARGEST:
        return float("nan")
    return 0.0 if abs(value) < _LEAST else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_step(record: Mapping[str, Any]) -> bool:
    step = record.get("step")
    return "loss" in record and isinstance(step, int) and not isinstance(step, bool)


def _table(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = record.get(key)
    return found if isinstance(found, dict) else {}
