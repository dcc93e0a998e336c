"""The loop: forward, backward, step; evaluate, save, and stop when asked to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from surgery.errors import TrainingError
from surgery.operate.engine import Engine, Turn
from surgery.operate.objective import Step
from surgery.recipe.train_form import TrainForm
from surgery.training.average import Average
from surgery.training.feed import Fed, Order, Reading, feed
from surgery.training.guards import MOVED, Guards
from surgery.training.judge import means
from surgery.training.memory import peak_memory
from surgery.training.movement import Movement
from surgery.training.optimize import clip, factor_at, set_rates
from surgery.training.signals import asked_to_end
from surgery.training.state import Progress
from surgery.training.strategy import Wrapped, moved


@dataclass
class Loop:
    """Train a wrapped model.

    Attributes:
        form: how.
        wrapped: the model under its strategy.
        optimizer: holds what is trained.
        guards: what stops a training that teaches nothing.
        reading: reads samples.
        order: which samples come when.
        steps: how many optimizer steps there are.
        progress: where the training is.
        average: of what is trained, where the recipe asks for one.
        scaler: of gradients in float16.
        record: called with a step's numbers.
        judge: evaluates, and gives metrics by name.
        save: called after a step, with True for the best so far.
    """

    form: TrainForm
    wrapped: Wrapped
    optimizer: torch.optim.Optimizer
    guards: Guards
    reading: Reading
    order: Order
    steps: int
    progress: Progress
    average: Average | None = None
    scaler: Any = None
    record: Callable[[dict[str, Any]], object] = lambda numbers: None
    judge: Callable[[], dict[str, float]] | None = None
    save: Callable[[bool], object] = lambda best: None
    _stopping: bool = field(default=False, init=False)
    _ready: Callable[[], object] = field(default=lambda: None, init=False)
    _movement: Movement | None = field(default=None, init=False)
    _norm: float = field(default=0.0, init=False)

    def run(self, ready: Callable[[], object] = lambda: None, engine: Engine | None = None) -> str:
        """Train to the last step, or until it is stopped.

        Args:
            ready: called when the data workers stand, before the first sample is read; random
                generators are restored there.
            engine: runs the steps in the place of this loop.

        Returns:
            Why it ended: ``done``, ``stopped`` by a signal, or ``patience``.

        Raises:
            TrainingError: a guard stopped it, or too many samples failed.
        """
        self._ready = ready
        with asked_to_end(self._stop):
            return self._run() if engine is None else engine.run(self)

    def _run(self) -> str:
        for turn in self.turns():
            self.optimizer.zero_grad(set_to_none=True)
            for place in range(len(turn.parts)):
                with self.wrapped.quiet(place == len(turn.parts) - 1):
                    self._backward(self.forward(turn, place))
            self.before_step(turn)
            self._move()
            ended = self.after_step(turn)
            if ended:
                return ended
        return "done"

    @property
    def module(self) -> nn.Module:
        """What every forward goes through."""
        return self.wrapped.module

    @property
    def first(self) -> int:
        """The step to go on with, counted from 0."""
        return self.progress.step

    @property
    def forwards(self) -> int:
        """Forwards of each step in this process."""
        return self.order.forwards

    def turns(self) -> Iterator[Turn]:
        """Read the samples of one step after another.

        Raises:
            TrainingError: too many samples failed, or none was left.
        """
        first = self.first
        batches = feed(self.reading, self.order, first, self.steps, self.form.workers)
        self._ready()
        for number, fed in zip(range(first, self.steps), batches, strict=True):
            yield self._turn(number, fed)

    def _turn(self, number: int, fed: list[Fed]) -> Turn:
        """Weigh what the forwards of one step get."""
        began, world = monotonic(), self.wrapped.world
        self._count(fed)
        batches = [one.batch for one in fed if one.batch is not None]
        if world.any(not batches):
            raise TrainingError(
                f"train: step {number}", "a sample that can be used in every process", "none in one"
            )
        weights = [self.reading.objective.weight(batch) for batch in batches]
        total = world.total(sum(weights))
        if total <= 0:
            raise TrainingError(
                f"train: step {number}", "a batch with something to learn from",
                "none in any sample", "does the objective find labels in these samples?",
            )  # fmt: skip
        shares = [weight / total for weight in weights]
        return Turn(number, list(zip(batches, shares, strict=True)), began)

    def forward(self, turn: Turn, place: int) -> Tensor:
        """Run one part of a step and give its share of the loss.

        DDP and FSDP2 take the mean of gradients, so it is multiplied with the number of processes.

        Raises:
            TrainingError: the loss is detached.
        """
        batch, share = turn.parts[place]
        world = self.wrapped.world
        with self._cast():
            found = self.wrapped.module(moved(batch, world.device))
            self.guards.before_backward(found)
            loss: Tensor = found.loss * share
        turn.seen = found
        turn.loss += float(loss.detach())
        _add(turn.sums, found)
        return loss * world.size

    def before_step(self, turn: Turn) -> None:
        """Check the gradients, clip them, and set the learning rates.

        Raises:
            TrainingError: a guard stopped the training.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        assert turn.seen is not None
        turn.loss = self.wrapped.world.total(turn.loss)
        self.guards.after_backward(turn.number, turn.seen, turn.loss)
        seen = turn.number == 0 or (turn.number + 1) % self.form.log.every == 0
        self._movement = Movement(self.optimizer, self.wrapped.world) if seen else None
        self._norm = clip(self.optimizer, self.form.clip)
        set_rates(self.optimizer, factor_at(self.form.schedule, turn.number, self.steps))

    def _move(self) -> None:
        if self.scaler is None:
            self.optimizer.step()
            return
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def after_step(self, turn: Turn) -> str:
        """Check what moved, record the step, evaluate and save where it is time.

        Returns:
            Why training ends here, or an empty text.

        Raises:
            TrainingError: a guard stopped the training.
        """
        number, world = turn.number, self.wrapped.world
        self.reading.objective.after_step(self.wrapped.trainee.model, number)
        if self.average is not None:
            self.average.move()
        self.progress.step = number + 1
        self.record(
            {
                "step": number + 1, "loss": turn.loss, **self._moved_by(),
                "lr": {g["name"]: g["lr"] for g in self.optimizer.param_groups},
                "seconds": monotonic() - turn.began, "samples": self.order.batch,
                "memory": peak_memory(world.device), **means(turn.sums, world),
            }
        )  # fmt: skip
        return self._after(number)

    def _moved_by(self) -> dict[str, Any]:
        """Say how far the step moved what is trained, by group, where that was looked at."""
        found: dict[str, Any] = {"norm": self._norm}
        if self._movement is not None:
            found |= {"norms": self._movement.norms, "moved": self._movement.shares()}
        if self.first == MOVED:
            found["changed"] = self.guards.shares()
        return found

    def _after(self, number: int) -> str:
        """Evaluate and save where it is time; say why training ends here, if it does."""
        done, form = number + 1, self.form
        stop = self.wrapped.world.any(self._stopping)
        last = done == self.steps
        best = False
        every = form.evaluate.every
        if self.judge is not None and (last or (every and done % every == 0)):
            best = self._judged(done)
        if best or last or stop or (form.save.every and done % form.save.every == 0):
            self.save(best)
        if stop:
            return "stopped"
        patience = form.evaluate.patience
        return "patience" if patience and self.progress.waited >= patience else ""

    def _judged(self, done: int) -> bool:
        assert self.judge is not None
        found = self.judge()
        self.record({"step": done, "evaluation": found})
        name = self.form.evaluate.metric
        if name not in found:
            raise TrainingError(
                "train.evaluate.metric", f"one of {', '.join(sorted(found))}", repr(name)
            )
        sign = -1 if self.reading.objective.better.get(name, "max") == "min" else 1
        value, best = found[name], self.progress.best
        if best is None or sign * value > sign * best:
            self.progress.best, self.progress.best_step, self.progress.waited = value, done, 0
            return True
        self.progress.waited += 1
        return False

    def _backward(self, loss: Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def _cast(self) -> AbstractContextManager[Any]:
        if self.form.precision == "float32":
            return nullcontext()
        kind = getattr(torch, self.form.precision)
        return torch.autocast(self.wrapped.world.device.type, dtype=kind)

    def _count(self, fed: list[Fed]) -> None:
        """Count samples that failed, and stop when there are too many."""
        failed = [one for item in fed for one in item.failed]
        world, progress = self.wrapped.world, self.progress
        progress.samples += self.order.batch
        progress.failed += int(world.total(len(failed)))
        for one in failed:
            self.record({"failed": one.number, "why": one.why})
        if progress.failed > self.form.max_failed * max(progress.samples, self.order.count):
            first = f"; the first: sample {failed[0].number}, {failed[0].why}" if failed else ""
            raise TrainingError(
                "train.data", f"at most {self.form.max_failed:.1%} of samples that cannot be used",
                f"{progress.failed} of {progress.samples}{first}",
                "mend the samples, or raise `max_failed`",
            )  # fmt: skip

    def _stop(self) -> None:
        self._stopping = True


def _add(sums: dict[str, tuple[float, float]], found: Step) -> None:
    for name, (value, count) in found.metrics.items():
        a, b = sums.get(name, (0.0, 0.0))
        sums[name] = (a + float(value), b + float(count))
