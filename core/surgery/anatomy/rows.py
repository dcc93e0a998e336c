"""Which rows of a fused weight arrive somewhere: real row numbers carried through the views."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from surgery.anatomy.provenance import Known, Origin
from surgery.anatomy.site import RowRange

_NOWHERE = -1


def rows_at(known: Known, origin: Origin) -> tuple[RowRange, ...] | None:
    """Give the rows of an origin's output that arrive in a tensor.

    Args:
        known: the tensor, such as the query of an attention.
        origin: the contraction whose output rows are asked for.

    Returns:
        Half-open ranges, none where other weights made all of it; None where they cannot be
        followed.
    """
    if origin.rows is not None:
        return origin.rows
    with torch._C.DisableTorchFunction():
        carried = _Carrier(origin).of(known)
        if carried is None:
            return None
        found = _distinct(carried, _axis_of(origin)[1])
    return ranges_of(found[found >= 0].tolist())


def ranges_of(numbers: Iterable[int]) -> tuple[RowRange, ...]:
    """Give sorted numbers as half-open ranges."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1][1] = number + 1
        else:
            ranges.append([number, number + 1])
    return tuple((start, stop) for start, stop in ranges)


def joined(ranges: Iterable[RowRange]) -> tuple[RowRange, ...]:
    """Give half-open ranges sorted, with those that touch or overlap as one."""
    found: list[RowRange] = []
    for start, stop in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return tuple(found)


class _Carrier:
    """Carry the row numbers of one origin through the operations that made a tensor."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.done: dict[int, Tensor | None] = {}
        self.bags: set[int] = set()

    def of(self, known: Known) -> Tensor | None:
        key = id(known)
        if key not in self.done:
            self.done[key] = self._carry(known)
        return self.done[key]

    def _carry(self, known: Known) -> Tensor | None:
        shape = known.tensor.shape
        if known.tensor is self.origin.output:
            return _numbered(shape, _axis_of(self.origin)[0])
        if self.origin not in known.origins:
            return torch.full((), _NOWHERE, dtype=torch.int32, device="cpu").expand(shape)
        if known.made is None:
            return None
        func, args, kwargs, number = known.made
        if func != "mul" and getattr(func, "__name__", "") in VIEWS:
            viewed = self._viewed(func, args, kwargs, number, shape)
            if viewed is not None:
                return viewed
        return self._same(known, args, shape)

    def _viewed(
        self, func: Any, args: Any, kwargs: Any, number: int, shape: torch.Size
    ) -> Tensor | None:
        if any(
            id(v) in self.bags
            for v in _flat(args)
            if isinstance(v, Known) and self.of(v) is not None
        ):
            return None
        moved = self._replaced(args)
        if moved is None:
            return None
        try:
            result = func(*moved, **kwargs)
        except (RuntimeError, TypeError, IndexError):
            return None
        found: Any = result if isinstance(result, Tensor) else result[number]
        return found if found.shape == shape else None

    def _replaced(self, value: Any) -> Any:
        """Put row numbers in the place of tensors; None where they are not known."""
        if isinstance(value, Known):
            return self.of(value)
        if isinstance(value, Tensor):
            return None if value.is_meta else value
        if type(value) in (tuple, list):
            items = [self._replaced(item) for item in value]
            lost = any(i is None and v is not None for i, v in zip(items, value, strict=True))
            return None if lost else type(value)(items)
        return value

    def _same(self, known: Known, args: Any, shape: torch.Size) -> Tensor | None:
        """Keep the rows of the arguments: in place where shapes agree, else as a bag.

        A bag is the rows without their places: pooling and the like move no row out of it.
        """
        found = [
            carried
            for value in _flat(args)
            if isinstance(value, Known) and self.origin in value.origins
            if (carried := self.of(value)) is not None
        ]
        fitting = [c for c in found if _fits(c.shape, shape)]
        if fitting:
            first: Tensor = fitting[0].expand(shape)
            return first
        if not found:
            return None
        self.bags.add(id(known))
        count = _axis_of(self.origin)[1]
        return torch.cat([_distinct(carried, count) for carried in found])


def _distinct(carried: Tensor, count: int) -> Tensor:
    """Give the distinct row numbers, of so many rows, sorted.

    Each is marked, which is far faster than sorting; what is only expanded is looked at once.
    """
    for dim, step in enumerate(carried.stride()):
        if step == 0 and carried.shape[dim] > 1:
            carried = carried.narrow(dim, 0, 1)
    marks = torch.zeros(count - _NOWHERE, dtype=torch.bool, device="cpu")
    marks[carried.reshape(-1) - _NOWHERE] = True
    return marks.nonzero().reshape(-1).int() + _NOWHERE


def _flat(value: Any) -> Iterable[Any]:
    if type(value) in (tuple, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _fits(small: torch.Size, large: torch.Size) -> bool:
    return len(small) <= len(large) and all(
        a in (1, b) for a, b in zip(reversed(small), reversed(large), strict=False)
    )


def _axis_of(origin: Origin) -> tuple[int, int]:
    """Give the axis of an origin's output that its rows lie on, and their number."""
    shape = () if origin.output is None else origin.output.shape
    axis = 1 if origin.kind == "conv" else len(shape) - 1
    return axis, shape[axis]


def _numbered(shape: torch.Size, axis: int) -> Tensor:
    numbers = torch.arange(shape[axis], dtype=torch.int32, device="cpu")
    return numbers.view([-1 if a == axis else 1 for a in range(len(shape))]).expand(shape)


VIEWS = {
    "store", "store_at", "view", "reshape", "view_as", "transpose", "transpose_", "permute",
    "chunk", "split", "tensor_split", "split_with_sizes", "narrow", "select", "__getitem__",
    "unsqueeze", "squeeze", "expand", "expand_as", "flatten", "unflatten", "unbind", "movedim",
    "moveaxis", "swapaxes", "swapdims", "repeat", "repeat_interleave", "index_select", "cat",
    "concat", "concatenate", "stack", "t", "flip", "roll", "unfold", "tile", "hsplit", "vsplit",
    "dsplit", "contiguous", "clone", "pad", "broadcast_to", "ravel", "swapaxes_", "__get__",
    "as_strided", "rot90", "gather", "take_along_dim",
}  # fmt: skip
"""Functions that move values and change none: they carry row numbers as they carry data."""
