"""Step 1 and the end of step 6: a teacher that follows what is trained, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from surgery.errors import RefusedError, TrainingError

MOVED = 20
"""Steps after which the teacher must have moved."""


class Teacher(nn.Module):
    """Hold an exponential average of what a model trains; the rest is the model's own.

    Args:
        model: the student.
        decay: share of the old average in each step.

    Raises:
        RefusedError: the model's tensors are spread over processes.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        free = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if any(hasattr(p, "device_mesh") for p in free.values()):
            raise RefusedError(
                "train.strategy", "none or ddp, under which the teacher has whole tensors",
                "fsdp2", "write `strategy: ddp`",
            )  # fmt: skip
        self.decay, self.names = decay, tuple(free)
        values = (p.detach().float().clone() for p in free.values())
        self.values = nn.ParameterList(nn.Parameter(v, requires_grad=False) for v in values)

    @torch.no_grad()
    def move(self, model: nn.Module, number: int) -> None:
        """Follow the student by one step.

        Args:
            model: the student.
            number: the step, counted from 0.

        Raises:
            TrainingError: the student has moved away, and no number of the teacher changes.
        """
        table = dict(model.named_parameters())
        stuck = []
        for name, value in zip(self.names, self.values, strict=True):
            new = value.lerp(table[name].detach().float(), 1 - self.decay)
            if number + 1 == MOVED and torch.equal(new, value) and _apart(table[name], value):
                stuck.append(name)
            value.copy_(new)
        if stuck:
            raise TrainingError(
                "train.objective (pseudo-gumbel): teacher", "an average that follows the student",
                f"{len(stuck)} tensors that do not change by one bit: {', '.join(stuck[:3])}",
                f"decay {self.decay} is too near 1 for {self.values[0].dtype}; lower it",
            )  # fmt: skip

    @torch.no_grad()
    def ask(self, model: nn.Module, run: Callable[[nn.Module], Any]) -> Any:
        """Run something of the student with the teacher's values, in eval mode, without gradients.

        Args:
            model: the student; it is as before afterwards.
            run: called with it.
        """
        table = dict(model.named_parameters())
        values = {
            f"model.{name}": value.to(table[name].dtype)
            for name, value in zip(self.names, self.values, strict=True)
        }
        with _in_eval(model):
            return functional_call(_Asked(model), values, (run,))

    def kept(self) -> dict[str, Tensor]:
        """Give the teacher's values by name."""
        return {f"teacher/{n}": v.detach() for n, v in zip(self.names, self.values, strict=True)}

    @torch.no_grad()
    def take(self, kept: Mapping[str, Tensor]) -> None:
        """Take the values of another run."""
        for name, value in zip(self.names, self.values, strict=True):
            value.copy_(kept[f"teacher/{name}"])


class _Asked(nn.Module):
    """Make any use of a model one forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[nn.Module], Any]) -> Any:
        """Run it."""
        return run(self.model)


def _apart(parameter: Tensor, value: Tensor) -> bool:
    return not torch.equal(parameter.detach().float(), value)


@contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
