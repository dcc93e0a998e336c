"""The arithmetic of LoRA and DoRA on weights, in each weight's own layout.

LoRA: https://arxiv.org/abs/2106.09685. DoRA: https://arxiv.org/abs/2402.09353, equation 5 with
the norm held constant as in its section 4.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.anatomy.site import RowRange
    from surgery_plugins.surgeries.lora.settings import LoraSettings

BLOCK = 64
"""Rows of a weight that are merged at a time."""


def tensors_of(lora: LoraSettings, module: nn.Module) -> tuple[Tensor, Tensor, Tensor | None]:
    """Give A, B and, for DoRA, the magnitude M of an adapter (else None)."""
    table: dict[str, Any] = module._parameters
    magnitude = table[f"{lora.stem}_M"] if lora.dora else None
    return table[f"{lora.stem}_A"], table[f"{lora.stem}_B"], magnitude


def product(lora: LoraSettings, a: Tensor, b: Tensor) -> Tensor:
    """Give ``scale * B A`` in the layout of the adapted part of the weight.

    Args:
        lora: the adapter.
        a: ``[r, in]``, ``[experts, r, in]`` or ``[r, in / groups, *kernel]``.
        b: ``[out, r]``, ``[experts, out, r]`` or ``[out, r / groups, 1, ...]``.

    Returns:
        The product in at least float32, autocast or not.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.to(working(a.dtype)), b.to(working(b.dtype))
        whole = _convolution(a, b, lora.groups) if lora.groups else b @ a
        turned = not lora.groups and lora.out_axis > lora.in_axis
        return (whole.transpose(-1, -2) if turned else whole) * lora.strength


def delta_weight(
    lora: LoraSettings,
    a: Tensor,
    b: Tensor,
    m: Tensor | None,
    base: Tensor,
) -> Tensor:
    """Give the difference an adapter makes to a whole weight, zero outside its rows.

    Args:
        lora: the adapter.
        a: see ``product``.
        b: see ``product``.
        m: DoRA's magnitude, one number per output row (and expert), or None.
        base: the base weight, which gives the shape, and for DoRA the values.

    Returns:
        The difference, shaped as ``base``, in at least float32; with DoRA
        ``m / ||W + BA|| * (W + BA) - W``, the norm detached.
    """
    part = _part_delta(lora, product(lora, a, b), m, base)
    if not lora.ranges:
        return part
    empty = torch.zeros(base.shape, dtype=part.dtype, device=part.device)
    return splice(empty, part, lora.ranges, lora.out_axis)


def adapted(lora: LoraSettings, module: nn.Module, base: Any, weight: Tensor) -> Tensor:
    """Give a weight with one adapter's difference added, in the weight's dtype.

    Args:
        lora: the adapter.
        module: the module that holds the adapter's tensors.
        base: the base weight.
        weight: the base weight, or what other extensions made of it.
    """
    a, b, m = tensors_of(lora, module)
    part = _part_delta(lora, product(lora, a, b), m, base)
    if not lora.ranges:
        return _sum(weight, part)
    return splice(weight, part, lora.ranges, lora.out_axis)


def norms(lora: LoraSettings, weight: Tensor) -> Tensor:
    """Give the L2 norm of every output row (for convolutions, of every output channel).

    Args:
        lora: the adapter, for the axes.
        weight: the adapted part of a weight, in its own layout.

    Returns:
        ``[out]``, or ``[experts, out]``.
    """
    axes = tuple(range(1, weight.ndim)) if lora.groups else (lora.in_axis,)
    return torch.linalg.vector_norm(weight, dim=axes)


def ratio(lora: LoraSettings, m: Tensor, part: Tensor, difference: Tensor) -> Tensor:
    """Give DoRA's ``m / ||W + BA||`` per output row, the norm detached.

    Args:
        lora: the adapter.
        m: the magnitude.
        part: the adapted rows of the base weight, in at least float32.
        difference: ``scale * B A`` in the same layout.

    Returns:
        A tensor shaped as ``m``; 0 norms count as 1.
    """
    with torch.autocast(m.device.type, enabled=False):
        norm = norms(lora, part.detach() + difference.detach())
        return m / norm.masked_fill(norm == 0, 1)


def magnitude(lora: LoraSettings, weight: Tensor) -> Tensor:
    """Give DoRA's magnitude at the start: the norms of the base weight's adapted rows."""
    return norms(lora, rows_of(weight, lora).to(working(weight.dtype)))


def rows_of(weight: Tensor, lora: LoraSettings) -> Tensor:
    """Give the adapted part of a weight: its rows along ``out_axis``, or all of it."""
    if not lora.ranges:
        return weight
    pieces = [weight.narrow(lora.out_axis, start, stop - start) for start, stop in lora.ranges]
    return torch.cat(pieces, dim=lora.out_axis)


def splice(whole: Tensor, part: Tensor, ranges: Sequence[RowRange], axis: int) -> Tensor:
    """Add ``part`` to some rows of ``whole``; all others keep every bit.

    Args:
        whole: any tensor.
        part: what to add, with as many rows along ``axis`` as the ranges hold.
        ranges: half-open, rising, disjoint.
        axis: the axis of the rows.
    """
    return torch.cat(list(_pieces(whole, part, ranges, axis)), dim=axis)


def merged(
    base: Tensor,
    adapters: Sequence[tuple[LoraSettings, Tensor, Tensor, Tensor | None]],
) -> Tensor:
    """Give a weight with adapters folded in: float32 arithmetic and one rounding.

    Args:
        base: the base weight.
        adapters: settings, A, B and magnitude (or None) of each adapter.

    Returns:
        A tensor of the base's shape and dtype.
    """
    deltas = [delta_weight(lora, a, b, m, base) for lora, a, b, m in adapters]
    result = torch.empty_like(base)
    for start in range(0, base.shape[0], BLOCK):
        rows = slice(start, start + BLOCK)
        block = base[rows].to(working(base.dtype))
        result[rows] = sum((delta[rows] for delta in deltas), block).to(base.dtype)
    return result


def working(kind: torch.dtype) -> torch.dtype:
    """Give the dtype to calculate in: float32, or the wider one."""
    return torch.promote_types(kind, torch.float32)


def _sum(weight: Tensor, delta: Tensor) -> Tensor:
    return (weight.to(working(weight.dtype)) + delta).to(weight.dtype)


def _part_delta(lora: LoraSettings, difference: Tensor, m: Tensor | None, base: Tensor) -> Tensor:
    if m is None:
        return difference
    part = rows_of(base, lora).to(difference.dtype)
    by = along(lora, ratio(lora, m, part, difference), part.ndim)
    return (by - 1) * part + by * difference


def along(lora: LoraSettings, per_row: Tensor, ndim: int) -> Tensor:
    """Shape one number per output row so that it multiplies a weight of ``ndim`` axes."""
    if lora.groups:
        return per_row.view(-1, *(1,) * (ndim - 1))
    return per_row.unsqueeze(lora.in_axis)


def _convolution(a: Tensor, b: Tensor, groups: int) -> Tensor:
    """Multiply per group: rows of A that a group's B reads are that group's own."""
    flat_a = a.flatten(1).unflatten(0, (groups, -1))
    flat_b = b.flatten(1).unflatten(0, (groups, -1))
    return (flat_b @ flat_a).flatten(0, 1).view(b.shape[0], *a.shape[1:])


def _pieces(whole: Tensor, part: Tensor, ranges: Sequence[RowRange], axis: int) -> Iterator[Tensor]:
    end = done = 0
    for start, stop in ranges:
        if start > end:
            yield whole.narrow(axis, end, start - end)
        count = stop - start
        yield _sum(whole.narrow(axis, start, count), part.narrow(axis, done, count))
        end, done = stop, done + count
    if end < whole.shape[axis]:
        yield whole.narrow(axis, end, whole.shape[axis] - end)
