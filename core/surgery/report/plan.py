"""Show a plan: a tree of surgeries, their sites folded over layers, and what it all costs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from surgery.anatomy.numbers import ranges_text
from surgery.operate.edits import (
    AddTensor,
    ChangeTokenizer,
    DropTensor,
    Extend,
    HoldEval,
    Place,
    Remove,
    Rewrite,
    SetAttribute,
    SetConfig,
    SetTrainable,
)
from surgery.operate.plan import Plan, PlannedStep
from surgery.operate.surgery import Surgery
from surgery.operate.table import Row, parameters
from surgery.report.text import clean

if TYPE_CHECKING:
    from rich.tree import Tree

NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")
"""The numbers in a dotted name, such as those of layers."""


def plan_tree(plan: Plan, limit: int = 12) -> Tree:
    """Give the plan as a tree that rich prints.

    Args:
        plan: what to show.
        limit: folded lines shown for each surgery.
    """
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(_plural(len(plan.steps), "surgery", "surgeries") + f", seed {plan.seed}"))
    shapes = {row.name: row for row in plan.before}
    for planned in plan.steps:
        branch = tree.add(Text(_title(planned)))
        lines = list(change_lines(planned, shapes))
        for line in lines[:limit]:
            branch.add(Text(clean(line)))
        if len(lines) > limit:
            branch.add(Text(f"... and {len(lines) - limit} more lines"))
        for line in planned.coverage if len(planned.coverage) > 1 else ():
            branch.add(Text(clean(line)))
        for note in planned.notes:
            branch.add(Text(f"note: {clean(note)}"))
    for line in summary(plan):
        tree.add(Text(line))
    for note in plan.notes:
        tree.add(Text(f"note: {clean(note)}"))
    return tree


def summary(plan: Plan) -> Iterator[str]:
    """Give the plan's totals, a line each."""
    before, after = parameters(plan.before), parameters(plan.after)
    added, trained = parameters(plan.added), parameters(plan.after, True)
    gone = f", {parameters(plan.removed):,} removed" if plan.removed else ""
    yield f"parameters: {before:,} -> {after:,} ({added:,} added{gone})"
    share = trained / after if after else 0.0
    yield f"trainable: {trained:,} of {after:,} ({share:.2%}) in {len(plan.trainable)} tensors"
    yield f"to write: {human_bytes(plan.to_json()['bytes_to_write'])} of tensors"


def human_bytes(count: int) -> str:
    """Write a number of bytes for people, in powers of 1024."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _title(planned: PlannedStep) -> str:
    step, sites = planned.step, _plural(len(planned.sites), "site", "sites")
    shown = f"{step.surgery.name} {options_text(step.surgery)}".rstrip()
    return clean(f"{shown} at {step.at}: {sites}")


def options_text(surgery: Surgery) -> str:
    """Give the options of a surgery that are no defaults, as ``key=value``."""
    options = surgery.model_dump(mode="json", exclude_defaults=True)
    fields = type(surgery).model_fields
    return " ".join(f"{key}={value}" for key, value in options.items() if fields[key].repr)


def change_lines(planned: PlannedStep, before: Mapping[str, Row]) -> Iterator[str]:
    """Give what a step changes, equal changes in several layers as one line.

    Args:
        planned: the step.
        before: the patient's tensors before the operation, by name.
    """
    lines: dict[str, list[str]] = {}
    for edit in planned.edits:
        for name, text in _changes(edit, before):
            lines.setdefault(NUMBER.sub("#", name) + f"\0{text}", []).append(name)
    for key, names in lines.items():
        yield f"{fold(names)} {key.partition(chr(0))[2]}"


def folded(names: Iterable[str]) -> list[str]:
    """Write names that differ in numbers alone as one, others by themselves."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(NUMBER.sub("#", name), []).append(name)
    return [fold(group) for group in groups.values()]


def fold(names: Iterable[str]) -> str:
    """Write names that differ in numbers alone as one, with the numbers as ranges."""
    found = list(names)
    numbers = [[int(n) for n in NUMBER.findall(name)] for name in found]
    columns = [ranges_text(column) for column in zip(*numbers, strict=True)]
    pieces = iter(columns)
    shown = NUMBER.sub(lambda _: next(pieces), found[0])
    return shown if len(found) == 1 else f"{shown} x{len(found)}"


def _changes(edit: Any, before: Mapping[str, Row]) -> Iterator[tuple[str, str]]:
    """Give what an edit changes, and how."""
    if isinstance(edit, Extend):
        for name, new in edit.tensors.items():
            yield f"{edit.path}.{name}", f"+ {_shape(new.shape)} {new.dtype}"
    elif isinstance(edit, Rewrite):
        old = before.get(edit.name)
        was = _shape(old.shape) if old else "new"
        yield edit.name, f"{was} -> {_shape(edit.shape)} {edit.dtype}"
    elif isinstance(edit, AddTensor):
        yield edit.name, f"+ {_shape(edit.tensor.shape)} {edit.tensor.dtype}"
    elif isinstance(edit, Place | Remove | HoldEval):
        beside = isinstance(edit, Place) and edit.beside
        yield edit.path, "added beside" if beside else _WORDS[type(edit)]
    else:
        yield from _settings(edit)


def _settings(edit: Any) -> Iterator[tuple[str, str]]:
    """Give what an edit that adds no tensor sets, and to what."""
    if isinstance(edit, SetTrainable):
        yield edit.name, "trains" if edit.trainable else "frozen"
    elif isinstance(edit, DropTensor):
        yield edit.name, "removed"
    elif isinstance(edit, SetConfig):
        yield f"{edit.of}.{edit.key}", f"= {edit.value!r}"
    elif isinstance(edit, SetAttribute):
        yield edit.name, f"= {getattr(edit.value, '__qualname__', edit.value)!r}"
    elif isinstance(edit, ChangeTokenizer):
        yield "tokenizer", edit.describe


_WORDS = {Place: "replaced", Remove: "removed", HoldEval: "held in eval mode"}


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
