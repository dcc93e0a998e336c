"""Optimizers on flat buffers: one kernel for a whole group, however many tensors it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

Make = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
"""Builds torch's optimizer from parameter groups."""


@dataclass
class _Buffer:
    """One flat parameter and the tensors that are views of it.

    Attributes:
        flat: the parameter that torch's optimizer holds; its gradient is flat too.
        views: each tensor with the part of the gradient that is its own.
    """

    flat: nn.Parameter
    views: dict[nn.Parameter, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, parameters: list[nn.Parameter]) -> _Buffer:
        """Move tensors of one dtype and device into a buffer; they stay the same objects."""
        flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
        flat.grad = torch.zeros_like(flat)
        made = cls(flat)
        for parameter, own, grad in zip(
            parameters, parts(flat.detach(), parameters), parts(flat.grad, parameters), strict=True
        ):
            parameter.data = own
            made.views[parameter] = grad
        return made

    @torch.no_grad()
    def collect(self) -> None:
        """Copy the gradients of all tensors; one that has none counts as zero."""
        have = {p: view for p, view in self.views.items() if p.grad is not None}
        if len(have) < len(self.views):
            torch._foreach_zero_([v for p, v in self.views.items() if p not in have])
        torch._foreach_copy_(list(have.values()), [p.grad for p in have])  # type: ignore[misc]


def parts(flat: Tensor, like: list[nn.Parameter]) -> Iterator[Tensor]:
    """Cut a flat tensor into views with the shapes of others."""
    pieces = torch.split(flat, [p.numel() for p in like])
    yield from (piece.view(p.shape) for piece, p in zip(pieces, like, strict=True))


class Flat(torch.optim.Optimizer):
    """Run one of torch's optimizers on flat buffers, one for each group, dtype and device.

    The parameters become views of the buffers and stay the same objects. ``state`` has torch's
    own entries for each parameter, views too, so that what is saved does not know of buffers.
    A parameter without a gradient in a step counts as one whose gradient is zero.

    Args:
        groups: parameter groups as torch's optimizers take them.
        make: builds torch's optimizer.
    """

    def __init__(self, groups: list[dict[str, Any]], make: Make) -> None:
        super().__init__(groups, {})
        self._buffers = [
            (number, buffer)
            for number, group in enumerate(self.param_groups)
            for buffer in _buffers(group["params"])
        ]
        self._inner = make(
            [{**self.param_groups[n], "params": [buffer.flat]} for n, buffer in self._buffers]
        )

    def collect(self) -> list[Tensor]:
        """Take up the gradients of all parameters; call it after every backward.

        Returns:
            The buffers, whose gradients the next step moves them by.
        """
        for _, buffer in self._buffers:
            buffer.collect()
        return [buffer.flat for _, buffer in self._buffers]

    def strays(self) -> list[nn.Parameter]:
        """Give the parameters that are no longer views of their buffers: no step would move them.

        ``parameter.data = other`` does it, and so does moving a module to another device.
        """
        return [
            parameter
            for _, buffer in self._buffers
            for parameter, own in zip(
                buffer.views, parts(buffer.flat.detach(), list(buffer.views)), strict=True
            )
            if parameter.data_ptr() != own.data_ptr()
        ]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move all parameters by the collected gradients."""
        for (number, _), inner in zip(self._buffers, self._inner.param_groups, strict=True):
            group = self.param_groups[number]
            inner.update({key: value for key, value in group.items() if key != "params"})
        self._inner.step()
        if not self.state:
            self._show()

    def _show(self) -> None:
        """Show the state of the buffers as one of each parameter."""
        for _, buffer in self._buffers:
            for key, value in self._inner.state[buffer.flat].items():
                like = list(buffer.views)
                shown = parts(value, like) if value.dim() else (value for _ in like)
                for parameter, one in zip(like, shown, strict=True):
                    self.state[parameter][key] = one

    @torch.no_grad()
    def take(self, states: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
        """Go on from the state of each parameter, as ``state`` had it.

        Args:
            states: all of it; a parameter without one begins with zeros.
        """
        for _, buffer in self._buffers:
            found = [states.get(parameter, {}) for parameter in buffer.views]
            first = next((one for one in found if one), {})
            self._inner.state[buffer.flat] = {
                key: _joined(key, found, buffer) if value.dim() else value.clone()
                for key, value in first.items()
            }
        self.state.clear()
        self._show()

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave, here or of torch's own optimizer."""
        super().load_state_dict(state_dict)
        self.take(dict(self.state))  # type: ignore[arg-type]


def _joined(key: str, found: list[Mapping[str, Tensor]], buffer: _Buffer) -> Tensor:
    joined = torch.zeros_like(buffer.flat)
    for part, one in zip(parts(joined, list(buffer.views)), found, strict=True):
        if key in one:
            part.copy_(one[key])
    return joined


def _buffers(parameters: list[nn.Parameter]) -> Iterator[_Buffer]:
    def kind(parameter: nn.Parameter) -> str:
        return f"{parameter.dtype} {parameter.device}"

    for _, alike in groupby(sorted(parameters, key=kind), kind):
        yield _Buffer.of(list(alike))
