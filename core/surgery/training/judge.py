"""Judge a model on samples that it is never trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from surgery.operate.objective import Batch
from surgery.training.average import Average
from surgery.training.feed import Reading
from surgery.training.strategy import World, Wrapped, moved


def means(sums: Mapping[str, tuple[float, float]], world: World) -> dict[str, float]:
    """Divide sums by counts, both added over all processes; every one must have the same names."""
    return {n: world.total(a) / max(1e-12, world.total(b)) for n, (a, b) in sorted(sums.items())}


@dataclass
class Judge:
    """Evaluate by loss and metrics, over all samples and all processes.

    Attributes:
        wrapped: the model under its strategy.
        reading: reads the samples to judge by.
        count: number of samples.
        micro: samples of one forward.
        average: judged in the place of what is trained, where there is one.
        precision: of autocast, or ``float32``.
        most: at most so many batches of each process, or None.
    """

    wrapped: Wrapped
    reading: Reading
    count: int
    micro: int
    average: Average | None = None
    precision: str = "float32"
    most: int | None = None

    def __call__(self) -> dict[str, float]:
        """Give mean loss and metrics by name."""
        sums: dict[str, tuple[float, float]] = {}
        world = self.wrapped.world
        with self._quietly():
            for batch, counts in self._batches():
                found = self.wrapped.trainee(moved(batch, world.device))
                if not counts:
                    continue
                weight = self.reading.objective.weight(batch)
                given = {"loss": (float(found.loss) * weight, weight), **found.metrics}
                for name, (value, count) in given.items():
                    a, b = sums.get(name, (0.0, 0.0))
                    sums[name] = (a + float(value), b + float(count))
        return means(sums, world)

    def _batches(self) -> Iterator[tuple[Batch, bool]]:
        """Give batches, as many in each process; what is only there to keep step counts not."""
        world = self.wrapped.world
        rounds = -(-self.count // (self.micro * world.size))
        rounds = min(rounds, self.most or rounds)
        first: Batch | None = None
        for number in range(rounds):
            start = (number * world.size + world.rank) * self.micro
            numbers = range(start, min(start + self.micro, self.count))
            batch = self.reading.collate([self.reading[(0, n)] for n in numbers]).batch
            first = first or batch
            if batch is not None:
                yield batch, True
            elif first is not None:
                yield first, False

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Judge in eval mode, without gradients, and leave everything as it was."""
        model: nn.Module = self.wrapped.trainee.model
        modes = [(module, module.training) for module in model.modules()]
        kind = None if self.precision == "float32" else getattr(torch, self.precision)
        device = self.wrapped.world.device.type
        cast = nullcontext() if kind is None else torch.autocast(device, dtype=kind)
        try:
            model.eval()
            with torch.no_grad(), cast, self.average.in_place() if self.average else nullcontext():
                yield
        finally:
            for module, mode in modes:
                module.training = mode
