"""Mix several data sets: which sample stands where is a function of the seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from surgery.operate.data import Data, Samples


@dataclass(frozen=True)
class Mixture:
    """Several data sets as one.

    Attributes:
        parts: the data sets.
        places: for each sample, the data set and the number in it.
    """

    parts: tuple[Samples, ...]
    places: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        """Give the number of samples."""
        return len(self.places)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        """Give one sample."""
        part, within = self.places[number]
        return self.parts[part][within]


def mixed(data: Sequence[Data], seed: int) -> Samples:
    """Open data sets, and mix several: each ``weight`` times its size, by its own option.

    A data set with ``weight: 0.5`` gives half of its samples, drawn by the seed; with 2, each
    twice.

    Args:
        data: the data sets.
        seed: of what is drawn.
    """
    parts = tuple(one.open() for one in data)
    weights = [float(getattr(one, "weight", 1.0)) for one in data]
    if len(parts) == 1 and weights[0] == 1.0:
        return parts[0]
    places: list[tuple[int, int]] = []
    for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
        whole, rest = divmod(round(weight * len(part)), len(part)) if len(part) else (0, 0)
        drawn = sorted(Random(f"{seed} mixture {number}").sample(range(len(part)), rest))
        places += [(number, n) for _ in range(whole) for n in range(len(part))]
        places += [(number, n) for n in drawn]
    return Mixture(parts, tuple(places))
