"""Show a diagnosis: a table of trials, what is at fault, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from surgery.flow.diagnose import Diagnosis
from surgery.flow.trials import Trial, Trouble
from surgery.report.text import clean

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {"passed": "green", "failed": "bold red", "skipped": "dim"}
_COLUMNS = ("trial", "status", "where", "what", "contract")


def diagnosis_table(found: Diagnosis) -> Table:
    """Give the trials as a table that rich prints."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    for trial in found.trials:
        cells = [Text(clean(cell, line=True)) for cell in _cells(trial)]
        cells[1].stylize(_STYLES[trial.status])
        table.add_row(*cells)
    return table


def _cells(trial: Trial) -> tuple[str, ...]:
    trouble = trial.trouble
    if trouble is None:
        return trial.name, trial.status, "", trial.skipped or _passed(trial), ""
    if trial.like:
        return trial.name, trial.status, trouble.where, f"the same as {trial.like}", ""
    contract = f"{trouble.contract.contract} ({trouble.contract.where})" if trouble.contract else ""
    return trial.name, trial.status, trouble.where, f"{trouble.breaks}: {trouble.what}", contract


def _passed(trial: Trial) -> str:
    """Name what was looked at, and what could not be; the reasons are in JSON."""
    good = [check.name for check in trial.checks if check.status in ("passed", "warned")]
    left = [check.name for check in trial.checks if check.status == "skipped"]
    return ", ".join(good) + (f"; not looked at: {', '.join(left)}" if left else "")


def verdict(found: Diagnosis) -> Iterator[str]:
    """Give the diagnosis as sentences."""
    culprit = found.culprit
    if culprit is None or culprit.trouble is None:
        yield "all surgeries together work"
        for trial in found.trials:
            if trial.trouble is not None:
                yield f"{trial.name} breaks ({trial.trouble.where}), and what comes later mends it"
    else:
        broken = _BROKEN.get(culprit.trouble.breaks, f"breaks {culprit.trouble.breaks}")
        yield f"{_blamed(culprit)} {broken} at {culprit.trouble.where}"
        yield _because(culprit.trouble)
    for name in found.innocent:
        yield f"innocent: {name}"


_BROKEN = {
    "surgery": "cannot be done",
    "contract": "breaks a contract",
    "parallel": "breaks on replicas",
}


def _blamed(culprit: Trial) -> str:
    who = {"base": "the base, without any surgery,", "alone": culprit.surgery}
    return who.get(culprit.kind, culprit.name)


def _because(trouble: Trouble) -> str:
    contract = trouble.contract
    if contract is None:
        return f"no family names a contract; seen: {trouble.what}"
    return f"contract {contract}"


def diagnosis_json(found: Diagnosis) -> dict[str, Any]:
    """Give the diagnosis as JSON values."""
    return {
        "trials": [_trial_json(trial) for trial in found.trials],
        "culprit": found.culprit.name if found.culprit else None,
        "innocent": list(found.innocent),
        "verdict": list(verdict(found)),
    }


def _trial_json(trial: Trial) -> dict[str, Any]:
    trouble = trial.trouble
    return {
        "name": trial.name,
        "kind": trial.kind,
        "status": trial.status,
        "skipped": trial.skipped,
        "like": trial.like,
        "trouble": None if trouble is None else _trouble_json(trouble),
        "checks": [check.to_json() for check in trial.checks],
    }


def _trouble_json(trouble: Trouble) -> dict[str, Any]:
    contract = trouble.contract
    return {
        "breaks": trouble.breaks,
        "where": trouble.where,
        "what": trouble.what,
        "contract": None if contract is None else contract.to_json(),
    }
