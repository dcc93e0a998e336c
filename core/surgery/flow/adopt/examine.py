"""Find out what a checkpoint of another tool holds, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from re import fullmatch
from typing import TypeAlias

from surgery.anatomy.glob import glob_regex
from surgery.checkpoint.legacy.declared import declared
from surgery.checkpoint.legacy.find import StateDict, metadata_of, state_dicts
from surgery.checkpoint.legacy.names import PLAIN, WRAPPERS, core
from surgery.checkpoint.legacy.read import Legacy, open_legacy
from surgery.checkpoint.legacy.resolve import resolve_freely, resolve_towards
from surgery.checkpoint.strict import show_path
from surgery.errors import RecipeError, RefusedError
from surgery.flow.adopt.adapters import with_adapters
from surgery.flow.adopt.components import components_of, demand_complete
from surgery.flow.adopt.notes import with_notes
from surgery.flow.adopt.sizes import Fit, Fitted, fit
from surgery.flow.adopt.task import Found, Task
from surgery.flow.files import JOURNAL, journal_in
from surgery.flow.load import source_of
from surgery.flow.structure import source_given
from surgery.hooks.registry import Registry
from surgery.operate.source import Source
from surgery.recipe.read import read_recipe
from surgery.recipe.shipped import shipped

Report: TypeAlias = Callable[[str], object]
"""Called with what begins now, such as ``read``."""


def examine(task: Task, known: Registry, report: Report = lambda what: None) -> Found:
    """Find out what a checkpoint holds; nothing is written, and no weight is read but for ties.

    Args:
        task: what to adopt.
        known: what the plugins offer.
        report: called at the beginning of each part.

    Raises:
        SurgeryError: the checkpoint cannot be read, is ambiguous, or is not complete.
    """
    where = show_path(task.path)
    report("read")
    legacy = open_legacy(task.path, leave_out_objects=task.leave_out_objects)
    states = state_dicts(legacy.tree, where, task.wishes.key)
    states = [state for one in states if (state := _without(one, task.drops)).tensors]
    _check_drops(task.drops, states, where)
    report("compare" if task.like else "clean")
    if task.like is None:
        found = Found(task, legacy, resolve_freely(states, task.wishes, where))
    else:
        found = _towards(task, legacy, states, _source(task.like, known))
    return with_adapters(with_notes(found))


def _source(like: str, known: Registry) -> Source:
    """Give the source of the declared structure.

    Raises:
        RefusedError: it was operated on, so that no source alone can build it.
    """
    path = Path(like).expanduser()
    if (path / JOURNAL).is_file():
        journal = journal_in(path)
        if journal.steps:
            raise RefusedError(
                "--like", "a structure before any surgery", f"{like}, which was operated on",
                "name its base",
            )  # fmt: skip
        return source_of(journal.base, path, None, known)
    if not path.is_file() and like not in shipped():
        return source_given(like, known)
    recipe = read_recipe(str(path) if path.is_file() else like, registry=known)
    if recipe.patient is None:
        raise RecipeError(f"{recipe.name}: patient", "a source", "nothing", "name a folder instead")
    return recipe.patient


def _towards(task: Task, legacy: Legacy, states: list[StateDict], source: Source) -> Found:
    """Meet a declared structure, fitted to the file where that was asked for."""
    where, fitted = show_path(task.path), tuple[Fitted, ...]()
    companions = dict(source.companions())
    if task.infer or task.numbers:
        told = metadata_of(legacy.tree)
        known = Fit(states, task.wishes, where, told, task.numbers, task.infer, task.defaults)
        source, fitted = fit(source, known)
        companions.pop("config.json", None)
    patient = source.build()
    wanted = declared(patient.model)
    resolved = resolve_towards(states, wanted, task.wishes, where)
    components = components_of(resolved, wanted, task.wishes.components)
    demand_complete(components, where, task.infer)
    kept = {name: entry for name, entry in resolved.entries.items() if name in wanted.shapes}
    ordered = {name: kept[name] for name in wanted.shapes if name in kept}
    resolved = replace(resolved, entries=ordered)
    return Found(task, legacy, resolved, components, (), fitted, None, source, patient, companions)


def _without(state: StateDict, drops: Sequence[str]) -> StateDict:
    """Leave out what the user wants left out."""
    patterns = [glob_regex(drop, "--drop") for drop in drops]
    kept = {n: t for n, t in state.tensors.items() if not _dropped(n, patterns)}
    return replace(state, tensors=kept, left_out=tuple(state.tensors.keys() - kept.keys()))


def _dropped(name: str, patterns: Sequence[str]) -> bool:
    plain = core(name, {*WRAPPERS, PLAIN})
    return any(fullmatch(pattern, one) for pattern in patterns for one in (name, plain))


def _check_drops(drops: Sequence[str], states: Sequence[StateDict], where: str) -> None:
    """Demand that every pattern leaves something out, and something in."""
    gone = [name for state in states for name in state.left_out]
    for drop in drops:
        if not any(_dropped(name, [glob_regex(drop, "--drop")]) for name in gone):
            raise RecipeError(f"--drop {drop}", f"a glob over tensors of {where}", "no such tensor")
