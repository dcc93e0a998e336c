"""The arithmetic of LoRA and DoRA on weights, in each weight's own layout.

LoRA: arXiv 2106.09685. DoRA: arXiv 2402.09353, equation 5, the norm constant as in section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from surgery_plugins.surgeries.lora.branch import CONV

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.anatomy.site import RowRange
    from surgery_plugins.surgeries.lora.branch import Branch


def factors_of(branch: Branch, module: nn.Module) -> tuple[Tensor, Tensor, Tensor | None]:
    """Give A, B and, for DoRA, M of an adapter."""
    table: dict[str, Any] = module._parameters
    return table[branch.a], table[branch.b], table[branch.m] if branch.m else None


def delta(branch: Branch, a: Tensor, b: Tensor, shape: Sequence[int], scale: float) -> Tensor:
    """Give ``scale * B A`` in a weight's own layout, zero outside the adapter's rows.

    Args:
        branch: the adapter.
        a: ``[r, in]``, ``[experts, r, in]`` or a kernel ``[r, in / groups, ...]``.
        b: ``[rows, r]``, ``[experts, rows, r]`` or a kernel ``[out, r / groups, 1, ...]``.
        shape: shape of the weight.
        scale: the factor in front.

    Returns:
        The product in at least float32, whatever autocast says.
    """
    part = _product(branch, a, b, shape, scale)
    if not branch.ranges:
        return part
    empty = torch.zeros(tuple(shape), dtype=part.dtype, device=part.device)
    return empty.index_add(branch.out_axis, rows_index(branch.ranges, part.device), part)


def delta_weight(branch: Branch, a: Tensor, b: Tensor, m: Tensor | None, base: Tensor) -> Tensor:
    """Give the difference that an adapter makes to a weight.

    Args:
        branch: the adapter.
        a: see ``delta``.
        b: see ``delta``.
        m: DoRA's magnitudes, one for each adapted output row, or None.
        base: the base weight: gives the shape and, for DoRA, the values.

    Returns:
        ``scale B A``, or ``m / ||W + scale B A|| (W + scale B A) - W`` with the norm detached;
        shaped as ``base``, in at least float32.
    """
    if not branch.strength:
        return torch.zeros_like(base, dtype=working(base.dtype))
    part = _part(branch, a, b, m, base)
    if not branch.ranges:
        return part
    empty = torch.zeros(base.shape, dtype=part.dtype, device=part.device)
    return empty.index_add(branch.out_axis, rows_index(branch.ranges, part.device), part)


def adapted(branch: Branch, module: nn.Module, weight: Tensor) -> Tensor:
    """Give a weight with one adapter's difference added, in the weight's dtype.

    Args:
        branch: the adapter.
        module: the module that holds the base weight and the adapter's tensors.
        weight: the base weight, or what other extensions made of it.

    Returns:
        A tensor shaped as ``weight``; rows outside the adapter's keep every bit.
    """
    if not branch.strength:
        return weight
    base: Any = module._parameters[branch.leaf]
    with torch.autocast(weight.device.type, enabled=False):
        part = _part(branch, *factors_of(branch, module), base)
        if not branch.ranges:
            return _sum(weight, part)
        index = rows_index(branch.ranges, weight.device)
        rows = _sum(weight.index_select(branch.out_axis, index), part)
        return torch.index_copy(weight, branch.out_axis, index, rows)


def norms(weight: Tensor, out_axis: int) -> Tensor:
    """Give the L2 norm of each output row, ``[rows]``, over all other axes."""
    axes = tuple(axis for axis in range(weight.ndim) if axis != out_axis)
    lengths: Tensor = torch.linalg.vector_norm(weight.to(working(weight.dtype)), dim=axes)
    return lengths


def stretch(branch: Branch, a: Tensor, b: Tensor, m: Tensor, base: Tensor) -> Tensor:
    """Give DoRA's factor ``m / ||W + scale B A||`` of each adapted row, the norm detached.

    Args:
        branch: the adapter.
        a: see ``delta``.
        b: see ``delta``.
        m: the magnitudes, ``[rows]``.
        base: the base weight.

    Returns:
        The factors, ``[rows]``.
    """
    with torch.no_grad(), torch.autocast(base.device.type, enabled=False):
        change = _product(branch, a, b, base.shape, branch.strength)
        rows = selected(branch, base, branch.out_axis).to(change.dtype)
        lengths = norms(rows + change, branch.out_axis)
    return by_length(m, lengths)


def selected(branch: Branch, tensor: Tensor, axis: int) -> Tensor:
    """Give the adapter's rows of a tensor along an axis; the tensor itself if it has them all."""
    if not branch.ranges:
        return tensor
    return tensor.index_select(axis, rows_index(branch.ranges, tensor.device))


def rows_index(ranges: tuple[RowRange, ...], device: torch.device) -> Tensor:
    """Give the row numbers of half-open ranges, ``[rows]``, without a copy from the host."""
    first, last = ranges[0], ranges[-1]
    length, step = first[1] - first[0], (last[0] - first[0]) // max(len(ranges) - 1, 1)
    even = ((first[0] + n * step, first[0] + n * step + length) for n in range(len(ranges)))
    if tuple(even) == ranges:
        starts = torch.arange(len(ranges), device=device).unsqueeze(1) * step + first[0]
        return (starts + torch.arange(length, device=device)).flatten()
    return torch.cat([torch.arange(start, stop, device=device) for start, stop in ranges])


def working(kind: torch.dtype) -> torch.dtype:
    """Give the dtype to calculate in: float32, or the wider one."""
    return torch.promote_types(kind, torch.float32)


def _product(branch: Branch, a: Tensor, b: Tensor, shape: Sequence[int], scale: float) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.to(working(a.dtype)), b.to(working(b.dtype))
        if branch.kind == CONV:
            return _kernels(a, b, shape) * scale
        whole = b @ a
        turned = branch.out_axis == len(shape) - 1
        return (whole.mT if turned else whole) * scale


def _kernels(a: Tensor, b: Tensor, shape: Sequence[int]) -> Tensor:
    """Multiply group by group: the rows of A that a group's B reads are the group's own."""
    groups = a.shape[0] // b.shape[1]
    flat_a = a.reshape(groups, a.shape[0] // groups, -1)
    flat_b = b.reshape(groups, b.shape[0] // groups, -1)
    return torch.bmm(flat_b, flat_a).reshape(tuple(shape))


def _part(branch: Branch, a: Tensor, b: Tensor, m: Tensor | None, base: Tensor) -> Tensor:
    """Give the difference of the adapted rows alone."""
    change = _product(branch, a, b, base.shape, branch.strength)
    if m is None:
        return change
    rows = selected(branch, base, branch.out_axis).to(change.dtype)
    by = by_length(m, norms((rows + change).detach(), branch.out_axis))
    by = by.view([-1 if axis == branch.out_axis else 1 for axis in range(base.ndim)])
    return (by - 1) * rows + by * change


def by_length(m: Tensor, lengths: Tensor) -> Tensor:
    """Divide magnitudes by lengths; a row of zeros has no direction and stays zero."""
    return m / lengths.masked_fill(lengths == 0, 1)


def _sum(weight: Tensor, change: Tensor) -> Tensor:
    return (weight.to(working(weight.dtype)) + change).to(weight.dtype)
