"""A local plugin: learn to count on, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from surgery.hooks.specs import hookimpl
from surgery.operate.data import Data, Samples
from surgery.operate.objective import Batch, Objective, Step


class _Numbers:
    def __init__(self, count: int, broken: int) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        if number < self.broken:
            raise OSError("the file is damaged")
        return {"start": number % 20}


class Numbers(Data):
    """Numbers to count on from."""

    name: ClassVar[str] = "test/numbers"
    count: int = 64
    broken: int = 0
    weight: float = 1.0

    def open(self) -> Samples:
        return _Numbers(self.count, self.broken)


class Counting(Objective):
    """Predict the next number."""

    name: ClassVar[str] = "test/counting"
    better: ClassVar[Mapping[str, str]] = {"loss": "min", "accuracy": "max"}
    how: str = "well"

    def encode(self, sample: Mapping[str, Any], patient: Any, random: Random) -> Mapping[str, Any]:
        start = sample["start"] + random.randrange(8)
        length = 3 + sample["start"] % 3
        return {"ids": torch.arange(start, start + length) % 40}

    def collate(self, encoded: Sequence[Mapping[str, Any]], patient: Any) -> Batch:
        most = max(len(one["ids"]) for one in encoded)
        ids = [F.pad(one["ids"], (0, most - len(one["ids"]))) for one in encoded]
        labels = [F.pad(one["ids"], (0, most - len(one["ids"])), value=-100) for one in encoded]
        return {"input_ids": torch.stack(ids), "labels": torch.stack(labels)}

    def weight(self, batch: Batch) -> float:
        return float((batch["labels"][:, 1:] != -100).sum())

    def step(self, model: Any, batch: Batch) -> Step:
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1].float()
        labels = batch["labels"][:, 1:]
        loss = F.cross_entropy(logits.transpose(1, 2), labels)
        if self.how == "zero":
            loss = loss * 0
        if self.how == "detached":
            loss = loss.detach().requires_grad_() * 1 if False else loss.detach()
        if self.how == "nan":
            loss = loss * float("nan")
        if self.how == "constant":
            loss = loss - loss.detach() + 1
        if self.how == "bound":
            loss = loss - loss.detach() + 2
        right = ((logits.argmax(-1) == labels) & (labels != -100)).sum()
        bounds = (0.0, 2.0) if self.how == "bound" else (None, None)
        return Step(loss, {"accuracy": (right, (labels != -100).sum())}, bounds)


@hookimpl
def surgery_objectives() -> Sequence[type[Any]]:
    return (Counting,)


@hookimpl
def surgery_data() -> Sequence[type[Any]]:
    return (Numbers,)
