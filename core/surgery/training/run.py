"""Train a recipe: apply its surgeries, run the loop, and publish the result."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surgery.checkpoint.publish import check_target
from surgery.checks.check import Check
from surgery.errors import OutputError, RefusedError
from surgery.flow.recipe import operated, output_of
from surgery.hooks.registry import Registry, registry
from surgery.recipe.read import read_recipe
from surgery.recipe.recipe import Recipe
from surgery.training.doctors import admit
from surgery.training.events import failures, remarking, write_begin, write_end
from surgery.training.records import Records
from surgery.training.result import publish_result
from surgery.training.resume import finished, save, take_best
from surgery.training.resume import resume as resume_session
from surgery.training.session import Session, Show, Telling, session_of
from surgery.training.setup import Setup, setup_of
from surgery.training.state import Progress
from surgery.training.strategy import World, join_world


@dataclass(frozen=True)
class Trained:
    """What a training made.

    Attributes:
        folder: the checkpoint; None in processes that do not write, and where it was stopped.
        run: records and checkpoints of the run.
        ended: ``done``, ``stopped`` or ``patience``.
        progress: where it ended.
        checks: the proof of the result.
    """

    folder: Path | None
    run: Path
    ended: str
    progress: Progress
    checks: tuple[Check, ...]


def _quiet(numbers: Mapping[str, Any], steps: int) -> None:
    """Show nothing."""


def train_recipe(
    recipe: Recipe,
    known: Registry,
    *,
    resume: bool = False,
    force: bool = False,
    remark: Callable[[str], object] = lambda text: None,
    show: Show = _quiet,
) -> Trained:
    """Apply a recipe's surgeries, train as it says, and publish the result.

    Args:
        recipe: what to do; it must have ``train`` and ``output``.
        known: what the plugins offer.
        resume: go on from the run's last checkpoint.
        force: begin anew where there is a run, and replace an existing output.
        remark: called with remarks, in the first process.
        show: called with numbers, in the first process.

    Raises:
        SurgeryError: the recipe is wrong, a guard stopped the training, or a check failed.
    """
    target = output_of(recipe)
    setup = setup_of(recipe, target)
    world = join_world()
    _check_engine(setup, world)
    done = finished(setup, recipe, target) if resume and not force else None
    if done is not None:
        remark(f"nothing to do: the training has ended, and its result stands in {target}")
        return Trained(target if world.leads else None, setup.folder, *done, ())
    if world.leads:
        check_target(target, force)
    _prepare(setup.folder, world, resume, force)
    torch.manual_seed(setup.seed + world.rank)
    operation = operated(recipe, known)
    why = setup.objective.refuse(operation.patient)
    if why:
        raise RefusedError("train.objective", f"a patient for {setup.objective.name}", why)
    with _records(setup, recipe, world, remark) as records, failures(records):
        if records is not None:
            write_begin(records, recipe, setup, target, world)
        said = remarking(records, remark if world.leads else _unsaid)
        admit(operation.patient, known, setup.form.guards.get("doctors", "error"), said)
        telling = Telling(said, show, records, setup.form.log.every)
        session = session_of(setup, recipe, operation, world, telling)
        ended = _run(session, resume, telling.remark)
        checks = []
        progress = session.loop.progress
        if ended != "stopped":
            if setup.form.save.output == "best":
                take_best(session)
            checks = publish_result(recipe, known, target, operation, session, force)
        write_end(records, ended, checks)
    folder = target if ended != "stopped" and world.leads else None
    return Trained(folder, setup.folder, ended, progress, tuple(checks))


def train(
    recipe: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    sets: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
) -> Trained:
    """Train a recipe, as ``surgery train`` does; inside a process group, with all its processes.

    Args:
        recipe: a file, or the name of a shipped recipe.
        resume: go on from the run's last checkpoint, where there is one.
        force: begin anew where there is a run, and replace an existing output.
        sets: overrides of single values, as ``key=value``.
        plugins: local plugins.

    Raises:
        SurgeryError: the recipe is wrong, a guard stopped the training, or a check failed.
    """
    known = registry(tuple(map(Path, plugins)))
    given = read_recipe(str(recipe), registry=known, sets=tuple(sets))
    return train_recipe(given, known, resume=resume, force=force, remark=print)


def _check_engine(setup: Setup, world: World) -> None:
    """Refuse what the engine cannot do."""
    why = setup.engine.refuse(setup.form, world.size) if setup.engine is not None else None
    if why:
        assert setup.engine is not None
        raise RefusedError(
            "train.engine", f"a training that {setup.engine.name} can run", why,
            "change it, or leave `engine` out: the loop that comes with surgery can",
        )  # fmt: skip


def _unsaid(text: str) -> None:
    """Say nothing."""


def _prepare(run: Path, world: World, resume: bool, force: bool) -> None:
    """Make the folder of a run, or refuse one that has begun."""
    if world.leads:
        if run.exists() and not resume:
            if not force:
                raise OutputError(
                    str(run), "a run that has not begun", "one that has",
                    "go on with --resume, or begin anew with --force",
                )  # fmt: skip
            shutil.rmtree(run)
        run.mkdir(parents=True, exist_ok=True)
    world.wait()


def _records(
    setup: Setup, recipe: Recipe, world: World, remark: Callable[[str], object]
) -> AbstractContextManager[Records | None]:
    if not world.leads:
        return nullcontext()
    return Records(setup.folder, setup.form.log.trackers, recipe.resolved, remark)


def _run(session: Session, resume: bool, remark: Callable[[str], object]) -> str:
    """Restore where asked, and run the loop."""
    loop = session.loop
    loop.save = lambda best: save(session, best)
    loop.guards.start()
    ready = resume_session(session, remark) if resume else _nothing
    if loop.progress.step >= loop.steps:
        return "done"
    ended = loop.run(ready, session.setup.engine)
    loop.guards.check_frozen()
    return ended


def _nothing() -> None:
    """Restore nothing."""
