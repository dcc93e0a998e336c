"""The loop: forward, backward, step; evaluate, save, and stop when asked to."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from time import monotonic
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from surgery.errors import TrainingError
from surgery.operate.objective import Step
from surgery.training.average import Average
from surgery.training.feed import Fed, Order, Reading, feed
from surgery.training.guards import Guards, local
from surgery.training.optimize import factor_at, set_rates
from surgery.training.schema import TrainForm
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

    def run(self, ready: Callable[[], object] = lambda: None) -> str:
        """Train to the last step, or until it is stopped.

        Args:
            ready: called when the data workers stand, before the first sample is read; random
                generators are restored there.

        Returns:
            Why it ended: ``done``, ``stopped`` by a signal, or ``patience``.

        Raises:
            TrainingError: a guard stopped it, or too many samples failed.
        """
        first = self.progress.step
        batches = feed(self.reading, self.order, first, self.steps, self.form.workers)
        ready()
        with self._signals():
            for number, fed in zip(range(first, self.steps), batches, strict=True):
                self._step(number, fed)
                ended = self._after(number)
                if ended:
                    return ended
        return "done"

    def _step(self, number: int, fed: list[Fed]) -> None:
        """Make one optimizer step."""
        began, world = monotonic(), self.wrapped.world
        self._count(fed)
        batches = [one.batch for one in fed if one.batch is not None]
        objective = self.reading.objective
        weights = [objective.weight(batch) for batch in batches]
        total = world.total(sum(weights))
        if total <= 0:
            raise TrainingError(
                f"train: step {number}", "a batch with something to learn from",
                "none in any sample", "does the objective find labels in these samples?",
            )  # fmt: skip
        self.optimizer.zero_grad(set_to_none=True)
        loss, sums, found = 0.0, {}, None
        for place, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
            with self.wrapped.quiet(place == len(batches) - 1), self._cast():
                found = self.wrapped.module(moved(batch, world.device))
                share = found.loss * (weight / total)
            self._backward(share * world.size)
            loss += float(share.detach())
            _add(sums, found)
        assert found is not None
        loss = world.total(loss)
        norm = self._move(number, found, loss)
        self.record(
            {
                "step": number + 1, "loss": loss, "norm": norm,
                "lr": {g["name"]: g["lr"] for g in self.optimizer.param_groups},
                "seconds": monotonic() - began, "samples": self.order.batch,
                **{name: world.total(a) / max(1.0, world.total(b)) for name, (a, b) in sums.items()},
            }
        )  # fmt: skip

    def _move(self, number: int, found: Step, loss: float) -> float:
        """Check the gradients, clip them, and let the optimizer move."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self.guards.after_backward(number, found, loss)
        norm = self._clip()
        set_rates(self.optimizer, factor_at(self.form.schedule, number, self.steps))
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.reading.objective.after_step(self.wrapped.trainee.model, number)
        if self.average is not None:
            self.average.move()
        self.guards.after_step(number)
        self.progress.step = number + 1
        return norm

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

    def _clip(self) -> float:
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        most = self.form.clip if self.form.clip is not None else float("inf")
        norm: Any = nn.utils.clip_grad_norm_(parameters, most)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

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

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Finish the step and save when the process is asked to end."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._stopping = True

        before = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                before[number] = signal.signal(number, stop)
        except ValueError:  # not the main thread
            pass
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _add(sums: dict[str, tuple[float, float]], found: Step) -> None:
    for name, (value, count) in found.metrics.items():
        a, b = sums.get(name, (0.0, 0.0))
        sums[name] = (a + float(value), b + float(count))


def update_share(before: dict[str, Tensor], parameter: Tensor, name: str) -> float:
    """Give by how much a parameter moved, as a share of its length."""
    moved_by = torch.linalg.vector_norm(local(parameter) - before[name])
    return float(moved_by / torch.linalg.vector_norm(before[name]).clamp_min(1e-12))
