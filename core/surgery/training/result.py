"""Publish what was trained as an ordinary output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgery.checkpoint.publish import publish
from surgery.checks.check import Check, demand, passed
from surgery.flow.card import Trained
from surgery.flow.files import base_of
from surgery.flow.plain import prove_plain
from surgery.flow.recipe import operated, planned_draft
from surgery.flow.write import Contents, Values, in_memory, write_output
from surgery.hooks.registry import Registry
from surgery.operate.journal import journal_of, with_trained
from surgery.operate.operation import Operation
from surgery.operate.plan import Plan
from surgery.operate.slots import Slot
from surgery.operate.table import named_tensors
from surgery.operate.values import Held, Node
from surgery.recipe.recipe import Recipe
from surgery.training.session import Session
from surgery.training.state import trained_of


def publish_result(
    recipe: Recipe,
    known: Registry,
    target: Path,
    operation: Operation,
    session: Session,
    force: bool,
) -> list[Check]:
    """Write trained values as an output; all processes gather, the first one writes.

    Args:
        recipe: the recipe.
        known: what the plugins offer.
        target: the folder of the output.
        operation: the patient's surgeries.
        session: the training, at its end.
        force: replace an output that stands there.

    Returns:
        The proof; nothing in processes that do not write.

    Raises:
        SurgeryError: a check failed; nothing was written.
    """
    if session.loop.average is not None:
        session.loop.average.write()
    values = trained_of(session.model)
    if not session.loop.wrapped.world.leads or recipe.patient is None:
        return []
    done = _as_planned(values, operation.plan)
    journal = journal_of(operation.plan, base_of(recipe.patient, known=known))
    journal = with_trained(journal, done)
    output = recipe.output
    exporters = [known.exporter(name) for name in (output.also if output else ())]
    draft = planned_draft(recipe, known) if output and output.save == "full" else None
    numbers = _values(done, operation.plan)
    if exporters or draft:
        operation = _whole(recipe, known, done)
        numbers = in_memory(operation)
    facts = _facts(recipe, session)
    contents = Contents(recipe.patient, recipe.to_yaml(), draft, exporters, facts, over=target)
    with publish(target, force=force) as folder:
        checks = write_output(folder, operation, journal, contents, values=numbers)
        if draft:
            checks.append(prove_plain(recipe.patient.moved(str(folder)), draft.operation))
        checks.append(passed("frozen tensors", "every bit as before the training"))
        demand(checks, str(target))
    return checks


def _whole(recipe: Recipe, known: Registry, done: dict[str, Tensor]) -> Operation:
    """Operate once more and put in what was trained; a strategy may hold the model in parts."""
    fresh = operated(recipe, known)
    tensors = {name: tensor for name, tensor, _ in named_tensors(fresh.patient.model)}
    with torch.no_grad():
        for name, value in done.items():
            tensors[name].copy_(value)
    return fresh


def _facts(recipe: Recipe, session: Session) -> Trained:
    """Say what the training did, for the model card."""
    progress, form, train = session.loop.progress, session.setup.form, recipe.train
    facts: dict[str, Any] = {
        "steps": progress.step, "samples": progress.samples, "batch": form.batch,
        "optimizer": f"{form.optimizer.name}, learning rate {form.optimizer.lr:g}",
        "precision": form.precision, "seed": session.setup.seed,
    }  # fmt: skip
    if train is not None:
        facts = {
            "objective": train.objective.name,
            "data": ", ".join(one.name for one in train.data), **facts,
        }  # fmt: skip
    if progress.best is None:
        return Trained(facts)
    metric = form.evaluate.metric
    return Trained({**facts, "best after step": progress.best_step}, {metric: progress.best})


def _as_planned(values: dict[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """Give the trained tensors of a plan in the dtypes that it says."""
    rows = {row.name: row for row in plan.after}
    return {n: t.to(getattr(torch, rows[n].dtype)) for n, t in values.items() if n in rows}


def _values(done: dict[str, Tensor], plan: Plan) -> Values:
    """Give the values of an output: trained ones where there are any."""
    names = {id(slot): name for name, slot in plan.slots.items()}

    def slot(one: Slot) -> Node:
        found = done.get(names[id(one)], one.values)
        assert found is not None
        return Held(found)

    return Values(slot, lambda name: Held(done[name]), done.__getitem__)
