"""An exponential average of what is trained, in float32 whatever the parameters are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Keep ``decay * average + (1 - decay) * parameter``, the first values exact.

    Args:
        model: the model; what takes gradients is averaged.
        decay: share of the old average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.decay = decay
        self.values = {n: p.detach().float().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def move(self) -> None:
        """Follow the parameters by one step."""
        for name, parameter in self.parameters.items():
            self.values[name].lerp_(parameter.float(), 1 - self.decay)

    @torch.no_grad()
    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Take the values of another run."""
        for name, value in values.items():
            self.values[name].copy_(value)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Give the parameters the averages for a while, as for an evaluation."""
        before = {n: p.detach().clone() for n, p in self.parameters.items()}
        try:
            self.write()
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.copy_(before[name])

    @torch.no_grad()
    def write(self) -> None:
        """Give the parameters the averages for good."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.values[name])
