"""Plan and apply a recipe: from its file to a published folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from surgery.checkpoint.publish import publish
from surgery.checks.check import Check, demand
from surgery.errors import RecipeError
from surgery.flow.files import base_of, write_output
from surgery.flow.prove import Witness, prove
from surgery.hooks.registry import Registry
from surgery.operate.fill import fill
from surgery.operate.journal import Journal, journal_of
from surgery.operate.operation import Operation, operate
from surgery.operate.plan import Plan
from surgery.operate.source import Source
from surgery.recipe.recipe import Recipe

Report: TypeAlias = Callable[[str], object]
"""Called with what begins now, such as ``load``."""


@dataclass(frozen=True)
class Outcome:
    """What an apply made.

    Attributes:
        folder: where it was written.
        plan: what was done.
        checks: the proof.
        journal: the record.
    """

    folder: Path
    plan: Plan
    checks: tuple[Check, ...]
    journal: Journal


def plan_recipe(recipe: Recipe, known: Registry) -> Operation:
    """Build the patient on meta and operate on it; no weight is read.

    Args:
        recipe: what to do.
        known: what the plugins offer.

    Raises:
        SurgeryError: the patient cannot be built, or a step is refused.
    """
    patient = _source(recipe).build()
    return operate(patient, recipe.steps, seed=recipe.seed, families=known.families())


def apply_recipe(
    recipe: Recipe,
    known: Registry,
    *,
    force: bool = False,
    always_forward: bool = False,
    report: Report = lambda what: None,
) -> Outcome:
    """Plan on meta, load the weights, operate, prove, and publish the output.

    Args:
        recipe: what to do; it must have an ``output``.
        known: what the plugins offer.
        force: replace an existing output.
        always_forward: compare a forward before and after however large the patient is.
        report: called at the beginning of each part.

    Raises:
        SurgeryError: a part failed; nothing is published then.
    """
    report("plan")
    planned = plan_recipe(recipe, known).plan
    target = output_of(recipe)
    exporters = [known.exporter(name) for name in (recipe.output.also if recipe.output else ())]
    with publish(target, force=force, needed_bytes=planned.to_json()["bytes_to_write"]) as folder:
        operation, checks = _operate(recipe, known, planned, always_forward, report)
        report("write")
        journal = journal_of(planned, base_of(_source(recipe)))
        full = recipe.output is not None and recipe.output.save == "full"
        written = write_output(
            folder,
            operation,
            journal,
            source=recipe.patient,
            recipe=recipe.to_yaml(),
            full=full,
            exporters=exporters,
        )
        demand([written], str(target))
    return Outcome(target, planned, (*checks, written), journal)


def output_of(recipe: Recipe) -> Path:
    """Give the folder that a recipe writes.

    Raises:
        RecipeError: it names none.
    """
    if recipe.output is None:
        raise RecipeError(
            f"{recipe.name}: output", "a folder to write", "nothing",
            "add `output: {path: ./out}` or give --output ./out",
        )  # fmt: skip
    return recipe.resolve(recipe.output.path)


def _source(recipe: Recipe) -> Source:
    if recipe.patient is None:
        raise RecipeError(
            f"{recipe.name}: patient", "a source", "nothing",
            "add `patient: {source: hf, path: ./base}`",
        )  # fmt: skip
    return recipe.patient


def _operate(
    recipe: Recipe, known: Registry, planned: Plan, always_forward: bool, report: Report
) -> tuple[Operation, list[Check]]:
    """Replay the plan on the patient with its weights, and prove it."""
    report("load")
    patient = _source(recipe).load()
    report("operate")
    witness = Witness(patient, recipe.steps, always_forward)
    sites = [step.sites for step in planned.steps]
    operation = operate(patient, recipe.steps, seed=recipe.seed, sites=sites)
    fill(operation.transaction.slots, recipe.seed)
    report("prove")
    checks = prove(operation, planned=planned, witness=witness, families=known.families())
    demand(checks, recipe.name)
    return operation, checks
