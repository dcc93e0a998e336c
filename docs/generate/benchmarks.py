"""The page on speed and memory, out of the results that the benchmarks wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .text import escaped, table

RESULTS = Path(__file__).parents[2] / "bench" / "results"
_INTRO = (
    "Each section is the last result of `python -m bench NAME`: the peers ran in the same run, in "
    "interleaved rounds, and the table shows the median, with the least and the most in brackets. "
    "The machines are shared and noisy, so the ratios say more than the times. Goals that were "
    "missed say so. `python -m bench --all --quick` runs all of them on smaller inputs."
)


def page(folder: Path = RESULTS) -> str:
    """Give the page; one section for each whole result, by name."""
    files = sorted(path for path in folder.glob("*.json") if not path.stem.endswith("-quick"))
    parts = [_section(path.stem, json.loads(path.read_text())) for path in files]
    return "\n\n".join(["# Benchmarks", _INTRO, *parts])


def _section(name: str, result: dict[str, Any]) -> str:
    rows = [_flat(row) for row in result["rows"]]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    shown = table(heads, ([_text(row.get(head, "")) for head in heads] for row in rows))
    verdicts = "\n".join(f"- {escaped(line)}" for line in result.get("verdicts", ()))
    title = f"## {name}\n\n{escaped(result.get('what', '').capitalize())}."
    return "\n\n".join(part for part in (title, verdicts, shown, _when(result)) if part)


def _when(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    load = " to ".join(map(str, result["load"])) if "load" in result else "not recorded"
    where = result.get("card") or f"{result['machine']}, {result.get('cores', '?')} cores"
    told = f"{result['date']}, commit {result['commit']}, {where}, load {load}; {versions}."
    return f"*{escaped(told)}*"


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Put median, least and most into one cell."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if key == "median":
            found["median"] = f"{_text(value)} ({_text(row['min'])} to {_text(row['max'])})"
        elif isinstance(value, dict) and "median" in value:
            found[key] = _flat(value)["median"]
        elif key not in ("min", "max"):
            found[key] = value
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
