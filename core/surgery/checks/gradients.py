"""Gradients of one backward: which trainable tensors get one, and whether it is a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import sqrt
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from surgery.checks.invariants import tensors_in

if TYPE_CHECKING:
    from torch import Tensor, nn

State: TypeAlias = Literal["none", "not finite", "zero", "some"]
"""What a tensor's gradient is: absent, with NaN or infinity, all zeros, or numbers."""


def loss_of(outputs: Any) -> Tensor | None:
    """Give a loss that every output takes part in: its product with fixed random numbers.

    A sum of squares would not do: it is constant behind a normalisation.

    Args:
        outputs: what a forward gave; its tensors have any shapes.

    Returns:
        A scalar in float32 or finer, or None where no output needs a gradient.
    """
    parts = [_part(tensor) for tensor in tensors_in(outputs) if tensor.requires_grad]
    return torch.stack(parts).sum() if parts else None


def _part(tensor: Tensor) -> Tensor:
    plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(plain.shape, generator=generator).to(plain.device)
    product: Tensor = (plain.float() * weights).sum()
    return product / sqrt(max(plain.numel(), 1))


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Give the parameters that take gradients, by their first name."""
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def states(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, State]:
    """Run one forward and one backward; no gradient is left behind in the model.

    Args:
        model: the model, in the mode that it is to be run in.
        inputs: keyword arguments of its forward.

    Returns:
        What the gradient of each trainable tensor is.
    """
    wanted = trainable(model)
    with torch.enable_grad():
        loss = loss_of(model(**inputs)) if wanted else None
    if loss is None:
        return dict.fromkeys(wanted, "none")
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return {name: state(gradient) for name, gradient in zip(wanted, found, strict=True)}


def state(gradient: Tensor | None) -> State:
    """Say what a gradient is."""
    if gradient is None:
        return "none"
    if not torch.isfinite(gradient).all():
        return "not finite"
    return "some" if gradient.count_nonzero() else "zero"


def last_of(names: Iterable[str], order: Iterable[str]) -> str:
    """Give the tensor whose module is called last: where a backward meets it first.

    Args:
        names: dotted names of tensors, at least one.
        order: paths of modules in the order in which a forward called them.
    """
    place = {path: number for number, path in enumerate(order)}
    return max(names, key=lambda name: place.get(name.rpartition(".")[0], -1))
