"""Plan and apply a recipe: from its file to a published folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from surgery.checkpoint.upload import publish_at
from surgery.checkpoint.urls import Folder, folder_at
from surgery.checks.check import Check, demand, skipped
from surgery.errors import RecipeError
from surgery.flow.ahead import ahead
from surgery.flow.draft import Draft, Placed, draft_of
from surgery.flow.files import base_of
from surgery.flow.mode import Mode, choose_mode
from surgery.flow.plain import prove_plain, prove_plain_ahead
from surgery.flow.prove import Witness, contracts, prove
from surgery.flow.run import Report, Run
from surgery.flow.write import Contents, Values, from_files, in_memory, write_output
from surgery.hooks.registry import Registry
from surgery.operate.fill import fill
from surgery.operate.journal import Journal, journal_of
from surgery.operate.operation import Operation, operate
from surgery.operate.patient import Patient
from surgery.operate.plan import Plan
from surgery.operate.source import Source
from surgery.recipe.recipe import Recipe


@dataclass(frozen=True)
class Outcome:
    """What an apply made.

    Attributes:
        folder: where it was written.
        plan: what was done.
        checks: the proof.
        journal: the record.
        mode: how it was applied, where there was a choice.
    """

    folder: Folder
    plan: Plan
    checks: tuple[Check, ...]
    journal: Journal
    mode: Mode | None = None


def plan_recipe(recipe: Recipe, known: Registry) -> Operation:
    """Build the patient on meta and operate on it; no weight is read.

    Args:
        recipe: what to do.
        known: what the plugins offer.

    Raises:
        SurgeryError: the patient cannot be built, or a step is refused.
    """
    return _operate(source_of_recipe(recipe).build(), recipe, known)


def apply_recipe(
    recipe: Recipe, known: Registry, run: Run | None = None, *, always_forward: bool = False
) -> Outcome:
    """Plan on meta, fill the tensors live or file by file, prove, and publish the output.

    Args:
        recipe: what to do; it must have an ``output``.
        known: what the plugins offer.
        run: how.
        always_forward: compare a forward before and after however large the patient is.

    Raises:
        SurgeryError: a part failed; nothing is published then.
    """
    run = run or Run()
    run.report("plan")
    with ahead(partial(base_of, source_of_recipe(recipe), known=known)) as base:
        return _applied(recipe, known, run, always_forward, base)


def _applied(
    recipe: Recipe,
    known: Registry,
    run: Run,
    always_forward: bool,
    base: Callable[[], dict[str, Any]],
) -> Outcome:
    """Apply a recipe; ``base`` gives the description of its base, once there is one."""
    source, target = source_of_recipe(recipe), target_of(recipe)
    draft = planned_draft(recipe, known)
    demand(contracts(draft.operation.patient, known.families()), recipe.name)
    whole = recipe.output is not None and recipe.output.save == "full"
    if whole:
        demand([prove_plain_ahead(source, draft.operation)], recipe.name)
    mode = choose_mode(draft, whole, run.way, run.engine.memory)
    run.report(str(mode))
    exporters = [known.exporter(name) for name in (recipe.output.also if recipe.output else ())]
    needed = bytes_to_write(draft, whole)
    with publish_at(target, force=run.force, needed_bytes=needed) as folder:
        operation, values, checks = (
            _from_files(draft, known)
            if mode.streamed
            else _live(recipe, known, draft, always_forward, run.report)
        )
        run.report("write")
        journal = journal_of(draft.operation.plan, base())
        checks += write_output(
            folder,
            operation,
            journal,
            Contents(source, recipe.to_yaml(), draft if whole else None, exporters, over=target),
            values=values,
            engine=run.engine,
        )
        if whole:
            checks.append(prove_plain(source.moved(str(folder)), draft.operation))
        demand(checks, str(target))
    return Outcome(target, draft.operation.plan, tuple(checks), journal, mode)


def planned_draft(recipe: Recipe, known: Registry) -> Draft:
    """Plan a recipe on meta, beside the files that its base's tensors are in.

    Args:
        recipe: what to do.
        known: what the plugins offer.

    Raises:
        SurgeryError: the patient cannot be built, or a step is refused.
    """
    source = source_of_recipe(recipe)
    return draft_of(source, lambda patient: Placed(_operate(patient, recipe, known)))


def operated(recipe: Recipe, known: Registry) -> Operation:
    """Load a recipe's patient, operate on it in memory, fill it and prove it.

    Args:
        recipe: what to do.
        known: what the plugins offer.

    Raises:
        SurgeryError: a part failed.
    """
    operation = _operate(source_of_recipe(recipe).load(), recipe, known)
    fill(operation.transaction.slots, recipe.seed)
    demand(prove(operation, families=known.families()), recipe.name)
    return operation


def output_of(recipe: Recipe) -> Path:
    """Give the folder of this machine that a recipe writes.

    Raises:
        RecipeError: it names none, or a URL.
    """
    target = target_of(recipe)
    if not isinstance(target, Path):
        raise RecipeError(f"{recipe.name}: output.path", "a folder of this machine", str(target))
    return target


def target_of(recipe: Recipe) -> Folder:
    """Give the folder that a recipe writes, here or behind a URL.

    Raises:
        RecipeError: it names none, or a URL that carries more than a place.
    """
    if recipe.output is None:
        raise RecipeError(
            f"{recipe.name}: output", "a folder to write", "nothing",
            "add `output: {path: ./out}` or give --output ./out",
        )  # fmt: skip
    return folder_at(recipe.output.path, recipe.folder)


def prove_from_files(draft: Draft, known: Registry) -> list[Check]:
    """Check what can be checked of an operation on meta; the rest is checked when it is written."""
    later = {"plan equals model", "finite values"}
    checks = prove(draft.operation, families=known.families())
    return [
        *(check for check in checks if check.name not in later),
        skipped("identity at init", "file by file, so no forward was run"),
    ]


def _operate(patient: Patient, recipe: Recipe, known: Registry) -> Operation:
    return operate(patient, recipe.steps, seed=recipe.seed, families=known.families())


def source_of_recipe(recipe: Recipe) -> Source:
    """Give the source of what a recipe operates on.

    Raises:
        RecipeError: it names none.
    """
    if recipe.patient is None:
        raise RecipeError(
            f"{recipe.name}: patient", "a source", "nothing",
            "add `patient: {source: hf, path: ./base}`",
        )  # fmt: skip
    return recipe.patient


def _from_files(draft: Draft, known: Registry) -> tuple[Operation, Values, list[Check]]:
    return draft.operation, from_files(draft), prove_from_files(draft, known)


def _live(
    recipe: Recipe, known: Registry, draft: Draft, always_forward: bool, report: Report
) -> tuple[Operation, Values, list[Check]]:
    """Replay the plan on the patient with its weights, and prove it."""
    report("load")
    planned = draft.operation.plan
    patient = source_of_recipe(recipe).load()
    report("operate")
    witness = Witness(patient, recipe.steps, always_forward)
    sites = [step.sites for step in planned.steps]
    operation = operate(patient, recipe.steps, seed=recipe.seed, sites=sites)
    fill(operation.transaction.slots, recipe.seed)
    report("prove")
    checks = prove(operation, planned=planned, witness=witness, families=known.families())
    demand(checks, recipe.name)
    written = [check for check in checks if check.name != "finite values"]
    return operation, in_memory(operation), written


def bytes_to_write(draft: Draft, whole: bool) -> int:
    """Give the size of the output; files that are linked count too."""
    plan = draft.operation.plan
    rows = {row.name: row for row in plan.after}
    return sum(r.bytes for r in plan.after) if whole else sum(rows[n].bytes for n in plan.saved)
