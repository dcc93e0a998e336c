"""A plan as tables: what each surgery does, and what becomes of which tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from surgery.operate.dtypes import dtype_of
from surgery.operate.journal import Journal
from surgery.operate.plan import Plan, PlannedStep
from surgery.operate.table import Row
from surgery.report.html.markup import filled, style
from surgery.report.plan import (
    NUMBER,
    change_lines,
    fold,
    folded,
    human_bytes,
    options_text,
    summary,
)

if TYPE_CHECKING:
    from markupsafe import Markup

MOST = 200
"""Lines of one cell, and rows of one table; beyond them it says how many more there are."""


@dataclass(frozen=True)
class StepRow:
    """One surgery.

    Attributes:
        use: its name.
        plugin: who offers it, with the version.
        options: its options that are no defaults.
        count: how many sites it had.
        sites: them, folded over layers.
        changes: what it does, folded over layers.
        notes: remarks.
    """

    use: str
    plugin: str
    options: str
    count: int
    sites: tuple[str, ...]
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorRow:
    """Some tensors of which the same is said.

    Attributes:
        how: ``added``, ``changed``, ``removed``, or what becomes of their gradients.
        name: their names, folded over layers.
        shape: the shape of each, before and after where it changes.
        dtype: the dtype of each, likewise.
        size: bytes of all of them afterwards, for people.
        trains: whether they take gradients.
    """

    how: str
    name: str
    shape: str
    dtype: str
    size: str
    trains: str


@dataclass(frozen=True)
class Tables:
    """What is shown of a plan.

    Attributes:
        steps: the surgeries, in order.
        tensors: what becomes of tensors.
        totals: sums, a line each.
        notes: remarks on the whole.
    """

    steps: tuple[StepRow, ...]
    tensors: tuple[TensorRow, ...]
    totals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plan_html(plan: Plan) -> str:
    """Give a plan as HTML, for notebooks; every text in it is escaped."""
    return str(filled("notebook.html", style=style(), body=tables_html(tables_of(plan))))


def tables_html(tables: Tables) -> Markup:
    """Give the tables as HTML."""
    return filled("plan.html", tables=tables, most=MOST)


def tables_of(plan: Plan) -> Tables:
    """Give what is shown of a plan."""
    shapes = {row.name: row for row in plan.before}
    return Tables(
        tuple(_step(planned, shapes) for planned in plan.steps),
        tuple(_tensors(_plan_facts(plan))),
        tuple(summary(plan)),
        plan.notes,
    )


def tables_of_journal(journal: Journal) -> Tables:
    """Give what a journal alone says, where its base is not at hand."""
    steps = (
        StepRow(
            one.use, f"{one.plugin} {one.version}".strip(), json.dumps(one.options),
            len(one.sites), tuple(folded(str(site.get("path")) for site in one.sites)),
        )
        for one in journal.steps
    )  # fmt: skip
    facts = (
        (name, ("stored" if one.stored else "kept", _shape(one.shape), one.dtype, one.trainable,
                prod(one.shape) * _width(one.dtype)))
        for name, one in journal.tensors.items()
    )  # fmt: skip
    return Tables(tuple(steps), tuple(_tensors(facts)))


Fact = tuple[str, str, str, bool, int]
"""What becomes of a tensor, its shape, its dtype, whether it trains, and its bytes."""


def _step(planned: PlannedStep, before: dict[str, Row]) -> StepRow:
    surgery, (plugin, version) = planned.step.surgery, planned.step.plugin
    sites = (s.path if s.part is None else f"{s.path} ({s.part})" for s in planned.sites)
    return StepRow(
        surgery.name, f"{plugin} {version}".strip(), options_text(surgery), len(planned.sites),
        tuple(folded(sites)), tuple(change_lines(planned, before)), planned.notes,
    )  # fmt: skip


def _plan_facts(plan: Plan) -> Iterator[tuple[str, Fact]]:
    """Give what becomes of each tensor that does not stay as it was."""
    for row in plan.added:
        yield row.name, ("added", _shape(row.shape), row.dtype, row.trainable, row.bytes)
    for row in plan.removed:
        yield row.name, ("removed", _shape(row.shape), row.dtype, False, 0)
    for old, new in plan.changed:
        shape = _both(_shape(old.shape), _shape(new.shape))
        yield new.name, ("changed", shape, _both(old.dtype, new.dtype), new.trainable, new.bytes)
    changed = {new.name for _, new in plan.changed}
    for _, new in plan.flags:
        if new.name not in changed:
            how = "now trains" if new.trainable else "now frozen"
            yield new.name, (how, _shape(new.shape), new.dtype, new.trainable, new.bytes)


def _tensors(facts: Iterable[tuple[str, Fact]]) -> Iterator[TensorRow]:
    """Fold tensors of which the same is said and whose names differ in numbers alone."""
    groups: dict[tuple[str, Fact], list[str]] = {}
    for name, fact in facts:
        groups.setdefault((NUMBER.sub("#", name), fact), []).append(name)
    for (_, (how, shape, dtype, trains, size)), names in groups.items():
        total = human_bytes(size * len(names)) if size else ""
        yield TensorRow(how, fold(names), shape, dtype, total, "yes" if trains else "no")


def _both(old: str, new: str) -> str:
    return new if old == new else f"{old} -> {new}"


def _shape(shape: Iterable[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _width(dtype: str) -> int:
    try:
        return dtype_of(dtype).itemsize
    except TypeError:
        return 0
