"""The plan: the ordered edits of a whole recipe and the exact difference they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from surgery.anatomy.site import Site
from surgery.operate.edits import ChangeTokenizer, Edit, HoldEval, SetConfig
from surgery.operate.slots import Slot
from surgery.operate.step import Step
from surgery.operate.table import Row, parameters


@dataclass(frozen=True)
class PlannedStep:
    """One surgery of the recipe, its sites and its edits.

    Attributes:
        step: the surgery, its selector and what was expected.
        sites: what was selected, in module order.
        edits: what the surgery returned for them.
        coverage: lines that say which pattern found how many sites in which layers.
        notes: remarks of the surgery for the reader.
    """

    step: Step
    sites: tuple[Site, ...]
    edits: tuple[Edit, ...]
    coverage: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The exact change that a recipe makes to one patient.

    Attributes:
        seed: the recipe's seed.
        steps: the planned steps, in order.
        before: the patient's tensors before.
        after: the patient's tensors after.
        slots: every tensor added or changed, by its name afterwards.
        notes: remarks on the anatomy and the whole.
    """

    seed: int
    steps: tuple[PlannedStep, ...]
    before: tuple[Row, ...]
    after: tuple[Row, ...]
    slots: Mapping[str, Slot] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def added(self) -> tuple[Row, ...]:
        """Tensors that are new."""
        known = {name for row in self.before for name in (row.name, *row.aliases)}
        return tuple(row for row in self.after if row.name not in known)

    @cached_property
    def removed(self) -> tuple[Row, ...]:
        """Tensors that are gone."""
        known = {name for row in self.after for name in (row.name, *row.aliases)}
        return tuple(row for row in self.before if row.name not in known)

    @cached_property
    def changed(self) -> tuple[tuple[Row, Row], ...]:
        """Tensors that keep their name and get other values, a shape or another tie."""
        old = {row.name: row for row in self.before}
        return tuple(
            (old[row.name], row)
            for row in self.after
            if row.name in old and (row.name in self.slots or _reshaped(old[row.name], row))
        )

    @cached_property
    def flags(self) -> tuple[tuple[Row, Row], ...]:
        """Tensors that keep their name and become trainable or frozen."""
        old = {row.name: row for row in self.before}
        return tuple(
            (old[row.name], row)
            for row in self.after
            if row.name in old and old[row.name].trainable != row.trainable
        )

    @property
    def trainable(self) -> tuple[str, ...]:
        """Names of the tensors that take gradients afterwards."""
        return tuple(row.name for row in self.after if row.trainable)

    @property
    def saved(self) -> tuple[str, ...]:
        """Names of the tensors that a checkpoint of the changes alone must hold."""
        return tuple(name for name, slot in self.slots.items() if slot.saved)

    @cached_property
    def folded(self) -> tuple[Slot, ...]:
        """Slots that are gone, of which something that is left was made, and that training may
        have changed: their values cannot be computed again.
        """
        left = {id(slot) for slot in self.slots.values()}
        known = {row.name for row in self.before}
        found: dict[int, Slot] = {}
        todo = list(self.slots.values())
        while todo:
            for origin in todo.pop().sources:
                if isinstance(origin, Slot) and id(origin) not in left | found.keys():
                    found[id(origin)] = origin
                    todo.append(origin)
        return tuple(slot for slot in found.values() if slot.trainable or slot.name not in known)

    def edits_of(self, *kinds: type[Any]) -> list[Any]:
        """Give the edits of some kinds, of all steps."""
        return [e for planned in self.steps for e in planned.edits if isinstance(e, kinds)]

    def _repr_html_(self) -> str:
        """Show the plan as tables in a notebook."""
        from surgery.report.html.plan import plan_html

        return plan_html(self)

    def to_json(self) -> dict[str, Any]:
        """Give the plan as JSON values, sizes in bytes."""
        rows = {row.name: row for row in self.after}
        return {
            "plan": 1,
            "seed": self.seed,
            "steps": [_step_json(planned) for planned in self.steps],
            "tensors": {
                "added": [row.to_json() for row in self.added],
                "removed": [row.to_json() for row in self.removed],
                "changed": [{"before": a.to_json(), "after": b.to_json()} for a, b in self.changed],
            },
            "parameters": {
                "before": parameters(self.before),
                "after": parameters(self.after),
                "added": parameters(self.added),
                "trainable_before": parameters(self.before, True),
                "trainable": parameters(self.after, True),
            },
            "bytes_to_write": sum(rows[name].bytes for name in self.saved),
            "config": {edit.name: edit.value for edit in self.edits_of(SetConfig)},
            "tokenizer": [edit.describe for edit in self.edits_of(ChangeTokenizer)],
            "held_in_eval": [edit.path for edit in self.edits_of(HoldEval)],
            "notes": list(self.notes),
        }


def _reshaped(old: Row, new: Row) -> bool:
    return (old.shape, old.dtype, old.aliases) != (new.shape, new.dtype, new.aliases)


def _step_json(planned: PlannedStep) -> dict[str, Any]:
    step = planned.step
    return {
        "use": step.surgery.name,
        "with": step.surgery.model_dump(mode="json"),
        "sites": [
            site.path if site.part is None else [site.path, site.part] for site in planned.sites
        ],
        "coverage": list(planned.coverage),
        "notes": list(planned.notes),
    }
