"""Adapters of one weight, or of some of its rows, as one: PEFT has no adapters of rows.

A stands above A, B beside B with zeros where an adapter does not reach: the same product. DoRA's
length of a row that no adapter stretches is the row's own, which stretches it by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from surgery.errors import RefusedError
from surgery_plugins.peft.beginning import Beginning, check_taken
from surgery_plugins.peft.ground import in_memory
from surgery_plugins.surgeries.lora.branch import CONV

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery_plugins.surgeries.lora.branch import Branch

Stack: TypeAlias = "tuple[Tensor, Tensor, Tensor | None, int, float]"
"""A, B, magnitudes or None, the rank, and the scale of the product."""


def stacked(
    path: str, group: list[tuple[nn.Module, Branch]], begin: Beginning | None = None
) -> Stack:
    """Give the adapters of one weight as one adapter of all its rows.

    Args:
        path: the module.
        group: the adapters, and the module that holds them.
        begin: tells what adapters took from the base when they began.

    Raises:
        RefusedError: two of them reach the same rows, and one stretches them.
    """
    import torch

    from surgery_plugins.surgeries.lora.arithmetic import factors_of

    module, first = group[0]
    if len(group) == 1 and not first.ranges and not first.residual:
        return (*factors_of(first, module), first.rank, first.scale)
    parts = [_over_all(module, one, *factors_of(one, module)[:2], first) for _, one in group]
    if residual := [one for _, one in group if one.residual]:
        parts += _taken(path, module, residual, first, begin)
    axes = (0, 1) if first.kind == CONV else (-2, -1)
    a = torch.cat([a for a, _ in parts], dim=axes[0])
    b = torch.cat([b for _, b in parts], dim=axes[1])
    m = _lengths(path, group) if any(branch.m for _, branch in group) else None
    return a, b, m, a.shape[axes[0]], first.scale


def _taken(
    path: str, module: nn.Module, branches: list[Branch], first: Branch, begin: Beginning | None
) -> list[tuple[Tensor, Tensor]]:
    """Give the factors that adapters took from the base when they began, to be taken away."""
    check_taken(path, module, branches, begin)
    assert begin is not None
    weight = module._parameters[first.leaf]
    assert weight is not None
    begun = [(begin(f"{path}.{one.a}"), -begin(f"{path}.{one.b}")) for one in branches]
    return [
        _over_all(module, one, a.to(weight.device), b.to(weight.device), first)
        for one, (a, b) in zip(branches, begun, strict=True)
    ]


def _over_all(
    module: nn.Module, branch: Branch, a: Tensor, b: Tensor, first: Branch
) -> tuple[Tensor, Tensor]:
    """Give A, and B over all rows, with the scale of the first adapter taken out of it."""
    from surgery_plugins.surgeries.lora.arithmetic import rows_index

    a, b = a.detach(), b.detach() * (branch.scale / first.scale)
    if not branch.ranges:
        return a, b
    weight = module._parameters[branch.leaf]
    assert weight is not None
    full = b.new_zeros(*b.shape[:-2], weight.shape[branch.out_axis], branch.rank)
    return a, full.index_copy(b.dim() - 2, rows_index(branch.ranges, b.device), b)


def _lengths(path: str, group: list[tuple[nn.Module, Branch]]) -> Tensor:
    """Give a length for every row: the trained one, or the row's own where there is none."""
    from surgery_plugins.surgeries.lora.arithmetic import (
        delta,
        factors_of,
        norms,
        rows_index,
        working,
    )

    module, first = group[0]
    weight = module._parameters[first.leaf]
    assert weight is not None
    _check_apart(path, [branch for _, branch in group], weight.shape[first.out_axis])
    total = in_memory(path, weight).detach().to(working(weight.dtype))
    lengths: dict[Branch, Tensor] = {}
    for _, branch in group:
        a, b, m = factors_of(branch, module)
        total = total + delta(branch, a.detach(), b.detach(), weight.shape, branch.scale)
        if m is not None:
            lengths[branch] = m.detach()
    found = norms(total, first.out_axis)
    for branch, m in lengths.items():
        index = rows_index(branch.ranges or ((0, len(found)),), m.device)
        found = found.index_copy(0, index, m.to(found.dtype))
    return found


def _check_apart(path: str, branches: list[Branch], rows: int) -> None:
    reached = [row for one in branches for row in _rows(one, rows)]
    if len(set(reached)) < len(reached):
        raise RefusedError(
            f"{path} (peft)", "rows with one adapter, where one uses DoRA", "rows with two",
            "leave one out of the export, or merge the adapters into the weights",
        )  # fmt: skip


def _rows(branch: Branch, rows: int) -> list[int]:
    ranges = branch.ranges or ((0, rows),)
    return [row for start, stop in ranges for row in range(start, stop)]
