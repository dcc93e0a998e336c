"""Write and read the state of a session: nothing of a training is lost between two processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from surgery.errors import RefusedError
from surgery.flow.files import JOURNAL
from surgery.recipe.recipe import Recipe
from surgery.training.events import how_it_ended
from surgery.training.keep import best_of, keep_state, last_state
from surgery.training.session import Session, digest_of
from surgery.training.setup import Setup
from surgery.training.state import (
    Progress,
    State,
    optimizer_state,
    random_state,
    read_state,
    restore,
    restore_random,
    trained_of,
    whole,
)

_AVERAGE, _OBJECTIVE = "average/", "objective/"


def save(session: Session, best: bool) -> None:
    """Write a checkpoint; all processes gather, the first one writes.

    Args:
        session: the training.
        best: True where no earlier checkpoint is better.

    Raises:
        TrainingError: something frozen has changed.
    """
    loop, form = session.loop, session.setup.form
    loop.guards.check_frozen()
    names = {id(p): n for n, p in session.model.named_parameters()}
    world = loop.wrapped.world
    state = State(
        replace(loop.progress, recipe=session.digest),
        trained_of(session.model),
        optimizer_state(loop.optimizer, names),
        _extra(session),
        world.gathered(random_state(world.device)),
    )
    if world.leads:
        keep_state(session.setup.folder, state, best=best, keep=form.save.keep)
    world.wait()


def _extra(session: Session) -> dict[str, Tensor]:
    """Give the average, the scaler of gradients and the objective's state, where there are any."""
    loop, found = session.loop, dict[str, Tensor]()
    kept = session.setup.objective.state()
    found |= {f"{_OBJECTIVE}{name}": whole(value) for name, value in kept.items()}
    if loop.average is not None:
        found |= {f"{_AVERAGE}{name}": whole(v) for name, v in loop.average.values.items()}
    if loop.scaler is not None:
        kept = loop.scaler.state_dict()
        numbers = [kept["scale"], kept["_growth_tracker"]]
        found["scaler"] = torch.tensor(numbers, dtype=torch.float64)
    return found


def resume(session: Session, remark: Callable[[str], object]) -> Callable[[], object]:
    """Give a session the state of its run's last checkpoint, where there is one.

    Args:
        session: a session that has not begun.
        remark: called with where it goes on.

    Returns:
        What restores the random generators, to be called when the data workers stand.

    Raises:
        RefusedError: another recipe began the run.
        IntegrityError: there are checkpoints, and all are damaged.
    """
    loop = session.loop
    state = last_state(session.setup.folder)
    if state is None:
        remark("no checkpoint yet; beginning anew")
        return lambda: None
    remark(f"going on after step {state.progress.step}")
    _restore(session, state)
    found = state.random.get(str(loop.wrapped.world.rank))
    device = loop.wrapped.world.device
    return lambda: None if found is None else restore_random(found, device)


def finished(setup: Setup, recipe: Recipe, target: Path) -> tuple[str, Progress] | None:
    """Tell how and where a training ended whose result stands there already.

    Args:
        setup: what the recipe says.
        recipe: the recipe.
        target: the folder of the result.

    Returns:
        How it ended and its progress; None where there is still something to do.
    """
    ended = how_it_ended(setup.folder) if (target / JOURNAL).is_file() else None
    if ended in (None, "stopped"):
        return None
    state = last_state(setup.folder)
    if state is None or state.progress.recipe != digest_of(recipe):
        return None
    return str(ended), state.progress


def take_best(session: Session) -> None:
    """Give a session the values of its run's best checkpoint.

    Raises:
        IntegrityError: that checkpoint is damaged.
    """
    folder = best_of(session.setup.folder)
    assert folder is not None  # the loop judges after its last step at the latest
    _restore(session, read_state(folder))


def _restore(session: Session, state: State) -> None:
    loop = session.loop
    if state.progress.recipe != session.digest:
        raise RefusedError(
            "--resume", "the recipe that began this run", "another one",
            "give the same recipe, or another `train.run`",
        )  # fmt: skip
    restore(session.model, loop.optimizer, state, str(session.setup.folder))
    loop.progress = state.progress
    if loop.average is not None:
        loop.average.restore(_below(state.extra, _AVERAGE))
    session.setup.objective.restore(_below(state.extra, _OBJECTIVE))
    if loop.scaler is not None and "scaler" in state.extra:
        scale, growth = state.extra["scaler"].tolist()
        given = {"scale": scale, "_growth_tracker": int(growth)}
        loop.scaler.load_state_dict({**loop.scaler.state_dict(), **given})


def _below(extra: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in extra.items() if n.startswith(prefix)}
