"""``surgery train``: apply a recipe's surgeries and fine-tune, with guards."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import click

from surgery.cli.progress import steps_bar, watched
from surgery.cli.recipe_options import read, recipe_options
from surgery.cli.session import Session, common

SECONDS = 10
"""Between two lines of a training that nobody watches."""


@click.command()
@recipe_options
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@click.option("--force", is_flag=True, help="Begin anew, and replace an existing output.")
@common
def train(session: Session, recipe: str, sets: tuple[str, ...], **options: Any) -> None:
    """Apply a recipe's surgeries and fine-tune, with guards.

    RECIPE is a file, or the name of a shipped recipe (see `surgery recipes`). Ctrl-C finishes
    the step and saves; --resume goes on from there.
    """
    given = read(session, recipe, sets, options)
    from surgery.report.training import trained_json, trained_text
    from surgery.training.run import train_recipe

    with steps_bar(session, "train") as bar:
        trained = train_recipe(
            given,
            session.registry,
            resume=options["resume"],
            force=options["force"],
            remark=session.remark,
            show=_Shown(session, bar),
        )
    text = "" if session.json else trained_text(trained)
    session.result(trained_json(trained), text, ok=trained.ended != "stopped")
    _end(130 if trained.ended == "stopped" else 0)


def _end(status: int) -> None:
    """End the process; workers of a group at once, as gloo may abort one that tears it down.

    See https://github.com/pytorch/pytorch/issues/190489.
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    if status:
        sys.exit(status)


class _Shown:
    """Show each step in a bar where somebody watches; otherwise print a line from time to time."""

    def __init__(self, session: Session, bar: Callable[[int, int, str], None]) -> None:
        self.session, self.bar, self.watched = session, bar, watched(session)
        self.began, self.last, self.first = monotonic(), 0.0, 0

    def __call__(self, numbers: Mapping[str, Any], steps: int) -> None:
        """Show a step's numbers; those of an evaluation always as a line."""
        step = int(numbers.get("step", 0))
        if "evaluation" in numbers:
            found = "  ".join(f"{k} {v:.4g}" for k, v in numbers["evaluation"].items())
            self.session.remark(f"step {step}: evaluation: {found}")
        if "loss" not in numbers:
            return
        said = f"loss {numbers['loss']:.4f}  norm {numbers['norm']:.3g}"
        self.bar(step, steps, said)
        if not self.watched:
            self._print(step, steps, said)

    def _print(self, step: int, steps: int, said: str) -> None:
        """Print a line, at most one in ten seconds; the first and the last step always."""
        now = monotonic()
        self.first = self.first or step
        if now - self.last < SECONDS and step not in (self.first, steps):
            return
        self.last = now
        rate = (step - self.first + 1) / max(1e-9, now - self.began)
        left = int((steps - step) / max(1e-9, rate))
        clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        self.session.remark(f"step {step}/{steps}  {said}  {rate:.2f} steps/s  {clock} left")
