"""A local plugin: an objective that does what goes wrong in real trainings, and a bad engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from surgery.hooks.specs import hookimpl
from surgery.operate.engine import Engine, Work
from surgery.operate.objective import Batch, Step
from tests.training.counting import Counting

TEACHERS: list[nn.Module] = []


class Faulty(Counting):
    """Predict the next number, with one fault."""

    name: ClassVar[str] = "test/faulty"
    fault: str = ""

    def teachers(self, model: Any) -> Iterable[nn.Module]:
        """Called when the optimizer stands: what is done here, a training script might do."""
        if self.fault == "frees a tensor":
            model.model.norm.weight.requires_grad_(True)
        if self.fault == "freezes a tensor":
            model.lm_head.weight.requires_grad_(False)
        if self.fault == "replaces a tensor":
            model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        if self.fault == "wakes a module":
            model.model.layers[0].training = True
        if self.fault == "teaches the teacher":
            TEACHERS[:] = [deepcopy(model)]
            return TEACHERS
        return ()

    def step(self, model: Any, batch: Batch) -> Step:
        if self.fault == "wakes a module":
            model.model.layers[0].training = True
        found = super().step(model, batch)
        if self.fault in ("leaves a tensor out", "multiplies by zero"):
            states = model.model(input_ids=batch["input_ids"]).last_hidden_state[:, :-1]
            weight = model.lm_head.weight.detach()
            if self.fault == "multiplies by zero":
                weight = weight + model.lm_head.weight * 0
            loss = F.cross_entropy(F.linear(states, weight).mT, batch["labels"][:, 1:])
            return Step(loss)
        if self.fault == "teaches the teacher":
            logits = TEACHERS[0](input_ids=batch["input_ids"]).logits
            return Step(found.loss + logits.square().mean())
        return found

    @torch.no_grad()
    def after_step(self, model: Any, number: int) -> None:
        if self.fault == "writes to a frozen tensor" and number == 3:
            model.model.norm.weight[2] += 1e-3
        if self.fault == "gives a tensor other memory":
            weight = model.lm_head.weight
            weight.data = weight.data.clone()


class Deaf(Engine):
    """Never lets processes hear of each other's gradients."""

    name: ClassVar[str] = "test/deaf"

    def run(self, work: Work) -> str:
        module: Any = work.module
        for turn in work.turns():
            work.optimizer.zero_grad()
            with module.no_sync():
                for place in range(len(turn.parts)):
                    work.forward(turn, place).backward()
            work.before_step(turn)
            work.optimizer.step()
            ended = work.after_step(turn)
            if ended:
                return ended
        return "done"


@hookimpl
def surgery_objectives() -> Sequence[type[Any]]:
    return (Faulty,)


@hookimpl
def surgery_engines() -> Sequence[type[Any]]:
    return (Deaf,)
