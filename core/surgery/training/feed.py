"""The feed: which samples come when is a function of seed, epoch and position alone.

So a run that was killed goes on with the very next sample, with augmentation as it would have
been, whatever the number of data workers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from surgery.errors import PatientError, RefusedError
from surgery.operate.objective import Batch, Objective

if TYPE_CHECKING:
    from surgery.operate.data import Samples
    from surgery.operate.patient import Patient


@dataclass(frozen=True)
class Failed:
    """A sample that could not be used.

    Attributes:
        number: its number.
        why: what was raised.
    """

    number: int
    why: str


@dataclass(frozen=True)
class Fed:
    """What one forward gets.

    Attributes:
        batch: the batch, or None where all its samples failed.
        samples: how many samples were asked for.
        failed: those that could not be used.
    """

    batch: Batch | None
    samples: int
    failed: tuple[Failed, ...] = ()


@dataclass
class Reading:
    """Read, encode and collate samples; the data set of torch's loader.

    Attributes:
        samples: the samples.
        objective: encodes and collates them.
        patient: tokenizer, processor and config; without its model, since workers get copies.
        seed: of everything that is drawn.
    """

    samples: Samples
    objective: Objective
    patient: Patient
    seed: int

    def __getitem__(self, place: tuple[int, int]) -> Mapping[str, Any] | Failed:
        """Give one encoded sample, by epoch and number."""
        epoch, number = place
        try:
            random = Random(f"{self.seed} {epoch} {number}")
            return self.objective.encode(self.samples[number], self.patient, random)
        except Exception as error:
            return Failed(number, f"{type(error).__name__}: {error}")

    def collate(self, encoded: Sequence[Mapping[str, Any] | Failed]) -> Fed:
        """Make a batch of what could be read."""
        failed = tuple(one for one in encoded if isinstance(one, Failed))
        good = [one for one in encoded if not isinstance(one, Failed)]
        batch = self.objective.collate(good, self.patient) if good else None
        return Fed(batch, len(encoded), failed)

    def lengths(self) -> list[int]:
        """Count the tokens of every sample, 0 of those that fail.

        Raises:
            RefusedError: samples of this objective have no ``input_ids``.
        """
        encoded = (self[0, number] for number in range(len(self.samples)))
        return [0 if isinstance(one, Failed) else _tokens_of(one) for one in encoded]


def _tokens_of(sample: Mapping[str, Any]) -> int:
    """Count the tokens of all texts of an encoded sample."""
    counts = list(_counts(sample))
    if not counts:
        raise RefusedError(
            "train.group_by_length", "samples with input_ids", f"ones with {', '.join(sample)}",
            "leave it out",
        )  # fmt: skip
    return sum(counts)


def _counts(sample: Mapping[str, Any]) -> Iterator[int]:
    for key, value in sample.items():
        if key == "input_ids":
            yield len(value)
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, Mapping):
                yield from _counts(one)


@dataclass(frozen=True)
class Order:
    """Give the places of each forward of each step.

    Attributes:
        count: number of samples.
        batch: samples of one step, over all processes.
        micro: samples of one forward.
        seed: of the order.
        rank: number of this process.
        world: number of processes.
        lengths: of the samples, so that each step gets those of about one length; or None.
    """

    count: int
    batch: int
    micro: int
    seed: int
    rank: int = 0
    world: int = 1
    lengths: Sequence[int] | None = None
    _kept: dict[int, list[int]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def forwards(self) -> int:
        """Forwards of this process in one step."""
        return self.batch // (self.micro * self.world)

    def steps_of(self, epochs: int) -> int:
        """Give the number of steps that make so many passes, the last one perhaps more."""
        return -(-epochs * self.count // self.batch)

    def places(self, step: int) -> list[list[tuple[int, int]]]:
        """Give the samples of this process in one step, by forward: epoch and number."""
        first = step * self.batch
        mine = range(first + self.rank * self.micro, first + self.batch, self.micro * self.world)
        return [[self._place(n) for n in range(start, start + self.micro)] for start in mine]

    def _place(self, position: int) -> tuple[int, int]:
        epoch, within = divmod(position, self.count)
        return epoch, self._permutation(epoch)[within]

    def _permutation(self, epoch: int) -> list[int]:
        """Give the order of one epoch; the last two are kept."""
        if epoch not in self._kept:
            while len(self._kept) > 1:
                self._kept.pop(next(iter(self._kept)))
            order, random = list(range(self.count)), Random(f"{self.seed} {epoch} order")
            random.shuffle(order)
            if self.lengths is not None:
                order = _grouped(order, self.lengths, self.batch, random)
            self._kept[epoch] = order
        return self._kept[epoch]


_WINDOW = 50
"""Batches among whose samples those of one length are sought, as transformers' sampler does."""


def _grouped(order: Sequence[int], lengths: Sequence[int], batch: int, random: Random) -> list[int]:
    """Put samples of about one length side by side, and the batches of them in any order."""
    near: list[int] = []
    for start in range(0, len(order), _WINDOW * batch):
        near += sorted(order[start : start + _WINDOW * batch], key=lengths.__getitem__)
    starts = list(range(0, len(near) - batch + 1, batch))
    rest = near[len(starts) * batch :]  # what fills no batch stays last
    random.shuffle(starts)
    return [number for start in starts for number in near[start : start + batch]] + rest


@dataclass(frozen=True)
class _Places:
    """Give the samples of each forward, from one step to another."""

    order: Order
    first: int
    last: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first, self.last):
            yield from self.order.places(step)

    def __len__(self) -> int:
        return (self.last - self.first) * self.order.forwards


def feed(
    reading: Reading, order: Order, first: int, last: int, workers: int = 0
) -> Iterator[list[Fed]]:
    """Give what the forwards of each step get, from one step to another.

    Data workers are forked where that is safe, since a local plugin is no module to import.

    Args:
        reading: reads samples.
        order: which samples come when.
        first: the first step, counted from 0.
        last: the step behind the last one.
        workers: processes that read ahead.

    Raises:
        PatientError: a data set is empty.
    """
    from torch import Generator
    from torch.utils.data import DataLoader

    if not order.count:
        raise PatientError("train.data", "samples", "none")
    loader: Any = DataLoader(
        reading,  # type: ignore[arg-type]
        batch_sampler=_Places(order, first, last),  # type: ignore[arg-type]
        collate_fn=reading.collate,
        num_workers=workers,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        generator=Generator().manual_seed(reading.seed),
    )
    forwards = iter(loader)
    for _ in range(first, last):
        yield [next(forwards) for _ in range(order.forwards)]
