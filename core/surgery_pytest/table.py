"""A table of what trials found: for each surgery its laws, by patient, and why any said nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from textwrap import shorten

LONGEST = 200
"""Letters of a reason; ``pytest -rs`` shows the whole of it."""

MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "-"}


@dataclass(frozen=True)
class Row:
    """What one trial found.

    Attributes:
        subject: the surgery, with the number of its example.
        law: the law's name.
        patient: the patient's name; empty for a law on none or on all of them.
        status: ``passed``, ``failed`` or ``skipped``.
        detail: what was found, or why nothing was said.
    """

    subject: str
    law: str
    patient: str
    status: str
    detail: str

    def to_json(self) -> dict[str, str]:
        """Give the row as JSON values."""
        return asdict(self)


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Give the lines of a table of rows, surgery by surgery."""
    by_subject: dict[str, list[Row]] = {}
    for row in rows:
        by_subject.setdefault(row.subject, []).append(row)
    for subject, own in sorted(by_subject.items()):
        yield from ("", subject, *_laws(own), *_reasons(own))


def _laws(rows: Sequence[Row]) -> Iterator[str]:
    """Give a line for each law, with a column for each patient."""
    patients = list(dict.fromkeys(row.patient for row in rows if row.patient))
    width = max(len(row.law) for row in rows) + 2
    if patients:
        yield "  " + " " * width + "  ".join(patients)
    for law in dict.fromkeys(row.law for row in rows):
        marks = {row.patient: MARKS[row.status] for row in rows if row.law == law}
        yield f"  {law:{width}}{_cells(marks, patients)}".rstrip()


def _cells(marks: Mapping[str, str], patients: Sequence[str]) -> str:
    if "" in marks:
        return marks[""]
    return "  ".join(f"{marks.get(name, ''):{len(name)}}" for name in patients)


def _reasons(rows: Sequence[Row]) -> Iterator[str]:
    """Give a line for each reason why laws said nothing, with the laws and the patients."""
    reasons: dict[str, list[Row]] = {}
    for row in rows:
        if row.status == "skipped":
            reasons.setdefault(row.detail, []).append(row)
    for detail, silent in reasons.items():
        laws = list(dict.fromkeys(row.law for row in silent))
        patients = dict.fromkeys(row.patient for row in silent)
        said = laws[0] if len(laws) == 1 else f"{len(laws)} laws"
        yield f"  - {said} ({', '.join(patients)}): {shorten(detail, LONGEST)}"
