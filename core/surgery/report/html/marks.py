"""Where a plan operates, marked on the anatomies before and after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from surgery.anatomy.site import Anatomy
from surgery.operate.edits import HoldEval, SetTrainable
from surgery.operate.plan import Plan
from surgery.report.html.anatomy import Mark


def marks_before(plan: Plan, anatomy: Anatomy) -> Mapping[str, tuple[Mark, ...]]:
    """Mark the sites of surgeries, and what goes; freezing shows as what trains instead."""
    gone = ((row.name, ("removed", "removed")) for row in plan.removed)
    return _marks(anatomy, [*_sites(plan), *gone])


def marks_after(plan: Plan, anatomy: Anatomy) -> Mapping[str, tuple[Mark, ...]]:
    """Mark the sites of surgeries, what is new, and what has other values."""
    added = ((row.name, ("added", "added")) for row in plan.added)
    changed = ((new.name, ("changed", "changed")) for _, new in plan.changed)
    return _marks(anatomy, [*_sites(plan), *added, *changed])


def _sites(plan: Plan) -> Iterator[tuple[str, Mark]]:
    for number, planned in enumerate(plan.steps):
        if not all(isinstance(edit, SetTrainable | HoldEval) for edit in planned.edits):
            for site in planned.sites:
                yield site.path, ("site", f"{number} {planned.step.surgery.name}")


def _marks(anatomy: Anatomy, wanted: Iterable[tuple[str, Mark]]) -> Mapping[str, tuple[Mark, ...]]:
    """Give the marks by the site that has them, or that is nearest above, each one once.

    A site that is no longer there is not marked, nor is what is nearest to it.
    """
    paths = {path: site.path for site in anatomy for path in site.paths}
    found: dict[str, dict[Mark, None]] = {}
    for name, mark in wanted:
        place = name if mark[0] == "site" else _nearest(name, paths)
        if place in paths:
            found.setdefault(paths[place], {})[mark] = None
    return {path: tuple(marks) for path, marks in found.items()}


def _nearest(name: str, paths: Mapping[str, str]) -> str:
    while name and name not in paths:
        name = name.rpartition(".")[0]
    return name
