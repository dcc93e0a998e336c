"""Every kind of weight seen as matrices of outputs by inputs, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from surgery_plugins.surgeries.lora.branch import CONV, Branch
from surgery_plugins.surgeries.lora.places import Place

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.anatomy.site import RowRange


@dataclass(frozen=True, slots=True)
class Layout:
    """Say how the adapted rows of a weight are ``count`` matrices ``[rows, inner]``.

    Attributes:
        kind: kind of the weight.
        shape: shape of the weight.
        out_axis: axis that holds output rows.
        ranges: the adapted rows; empty for all.
        count: how many matrices: experts, groups of a convolution, or one.
        rows: outputs of each.
        inner: inputs of each.
        each: rank of each.
        shape_a: shape of A as it is stored.
        shape_b: shape of B as it is stored.
    """

    kind: str
    shape: tuple[int, ...]
    out_axis: int
    ranges: tuple[RowRange, ...]
    count: int
    rows: int
    inner: int
    each: int
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]

    def matrices(self, weight: Tensor) -> Tensor:
        """Give the adapted rows of a weight, ``[count, rows, inner]``, in at least float32."""
        from surgery_plugins.surgeries.lora.arithmetic import rows_index, working

        if self.ranges:
            index = rows_index(self.ranges, weight.device)
            weight = weight.index_select(self.out_axis, index)
        weight = weight.to(working(weight.dtype))
        if self.kind != CONV and self.out_axis == len(self.shape) - 1:
            weight = weight.mT
        return weight.reshape(self.count, self.rows, self.inner)

    def replaced(self, weight: Tensor, matrices: Tensor) -> Tensor:
        """Give a weight with other values in its adapted rows, rounded once to its dtype.

        Args:
            weight: the weight.
            matrices: the new values, ``[count, rows, inner]``.
        """
        from surgery_plugins.surgeries.lora.arithmetic import rows_index

        turned = self.kind != CONV and self.out_axis == len(self.shape) - 1
        part = (matrices.mT if turned else matrices).to(weight.dtype)
        if not self.ranges:
            return part.reshape(self.shape)
        shape = list(self.shape)
        shape[self.out_axis] = sum(stop - start for start, stop in self.ranges)
        index = rows_index(self.ranges, weight.device)
        return weight.index_copy(self.out_axis, index, part.reshape(shape))

    def factors(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Give stored factors as ``[count, each, inner]`` and ``[count, rows, each]``."""
        return (
            a.reshape(self.count, self.each, self.inner),
            b.reshape(self.count, self.rows, self.each),
        )


def layout_of(branch: Branch, place: Place) -> Layout:
    """Give the layout of an adapter's weight."""
    return _layout(
        place.kind,
        place.shape,
        place.out_axis,
        place.in_axis,
        branch.ranges,
        place.rows,
        place.groups,
        branch.rank,
    )


def adapter_layout(branch: Branch, module: nn.Module) -> Layout:
    """Give the layout of the weight of an adapter that is there."""
    weight = module._parameters[branch.leaf]
    assert weight is not None
    shape, out = tuple(weight.shape), branch.out_axis
    inner = 1 if branch.kind == CONV else 2 * len(shape) - 3 - out
    rows = sum(stop - start for start, stop in branch.ranges) or shape[out]
    groups: Any = getattr(module, "groups", 1) if branch.kind == CONV else 1
    return _layout(branch.kind, shape, out, inner, branch.ranges, rows, groups, branch.rank)


@cache
def _layout(  # noqa: PLR0913
    kind: str, shape: tuple[int, ...], out: int, inner: int, ranges: tuple[RowRange, ...],
    rows: int, groups: int, rank: int,
) -> Layout:  # fmt: skip
    if kind == CONV:
        ones = (1,) * (len(shape) - 2)
        a, b = (rank, *shape[1:]), (rows, rank // groups, *ones)
        sizes = (groups, rows // groups, prod(shape[1:]), rank // groups)
        return Layout(kind, shape, out, ranges, *sizes, a, b)
    front = shape[:1] if len(shape) == 3 else ()
    sizes = (front[0] if front else 1, rows, shape[inner], rank)
    a, b = (*front, rank, shape[inner]), (*front, rows, rank)
    return Layout(kind, shape, out, ranges, *sizes, a, b)
