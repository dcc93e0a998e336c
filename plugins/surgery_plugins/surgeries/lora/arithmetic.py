"""The arithmetic of an adapter: what it adds to a weight, in the weight's own layout.

LoRA: arXiv 2106.09685, section 4.1. DoRA: arXiv 2402.09353, equation 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from surgery_plugins.surgeries.lora.adapters import factor
from surgery_plugins.surgeries.lora.branch import CONV, EMBEDDING, LINEAR, Branch

if TYPE_CHECKING:
    from surgery.anatomy.site import RowRange

BLOCK = 64
"""Rows that are merged at a time, so that a copy in float32 stays small."""


def delta(branch: Branch, a: Tensor, b: Tensor, shape: torch.Size, scale: float) -> Tensor:
    """Give what an adapter adds to its weight.

    Args:
        branch: the adapter.
        a: ``(r, in)``; kernels ``(r, in, ...)``, token tables ``(r, tokens)``, experts
            ``(experts, r, in)``.
        b: ``(rows, r)``; kernels ``(rows, r, 1...)``, experts ``(experts, rows, r)``.
        shape: shape of the weight.
        scale: what the product is multiplied with.

    Returns:
        A tensor of the weight's shape, in the dtype of ``a``.
    """
    if branch.kind == CONV:
        product = torch.tensordot(b.flatten(1), a, dims=1)
    else:
        product = b @ a
        if branch.kind == EMBEDDING or branch.out_axis == len(shape) - 1:
            product = product.transpose(-1, -2)
    product = product * scale
    if not branch.ranges:
        return product
    index = rows_index(branch.ranges, product.device)
    return product.new_zeros(shape).index_copy(branch.out_axis, index, product)


def rows_index(ranges: tuple[RowRange, ...], device: torch.device) -> Tensor:
    """Give the numbers of rows as a tensor."""
    return torch.cat([torch.arange(start, stop, device=device) for start, stop in ranges])


def adapted(branch: Branch, module: nn.Module, weight: Tensor) -> Tensor:
    """Give a weight with an adapter in it, by differentiable operations, in the weight's dtype."""
    a, b = pair(branch, module)
    strength = factor(module, branch)
    if strength == 0.0:
        return weight
    changed = weight.to(a.dtype) + delta(branch, a, b, weight.shape, branch.scale * strength)
    if branch.m:
        changed = changed * _stretch(branch, module, changed)
    return changed.to(weight.dtype)


def pair(branch: Branch, module: nn.Module) -> tuple[Tensor, Tensor]:
    """Give the tensors A and B of an adapter."""
    a, b = module._parameters[branch.a], module._parameters[branch.b]
    assert a is not None
    assert b is not None
    return a, b


def _stretch(branch: Branch, module: nn.Module, changed: Tensor) -> Tensor:
    """Give DoRA's factor for each output row, 1 for rows that the adapter leaves alone."""
    magnitude = module._parameters[branch.m]
    assert magnitude is not None
    lengths = norms(changed.detach(), branch.out_axis)
    stretch = magnitude / lengths if not branch.ranges else _in_rows(branch, magnitude, lengths)
    return stretch.view([-1 if axis == branch.out_axis else 1 for axis in range(changed.dim())])


def _in_rows(branch: Branch, magnitude: Tensor, lengths: Tensor) -> Tensor:
    index = rows_index(branch.ranges, lengths.device)
    return torch.ones_like(lengths).index_copy(0, index, magnitude / lengths[index])


def norms(weight: Tensor, out_axis: int) -> Tensor:
    """Give the length of each output row, ``(rows,)``, in float32 or better."""
    wide = weight if weight.dtype == torch.float64 else weight.float()
    axes = [axis for axis in range(weight.dim()) if axis != out_axis]
    return torch.linalg.vector_norm(wide, dim=axes)


@torch.no_grad()
def merged(branch: Branch, module: nn.Module, weight: Tensor) -> Tensor:
    """Fold an adapter into a weight: arithmetic in float32, one rounding, some rows at a time.

    The formula is ``W + (B A) s``, as PEFT's ``get_delta_weight`` has it.
    """
    a, b = pair(branch, module)
    if branch.kind != LINEAR or branch.ranges or branch.m or branch.out_axis:
        return adapted(branch, module, weight)
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    result = torch.empty_like(weight)
    for start in range(0, weight.shape[0], BLOCK):
        rows = slice(start, start + BLOCK)
        product = b[rows].to(wide) @ a.to(wide) * branch.scale
        result[rows] = (weight[rows].to(wide) + product).to(weight.dtype)
    return result
