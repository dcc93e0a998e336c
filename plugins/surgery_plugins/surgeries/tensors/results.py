"""What each verb makes of the tensors that it reads: shapes, dtypes and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.errors import RefusedError
from surgery.operate.dtypes import name_of
from surgery.operate.edits import Derive, Init, Keep, Value
from surgery_plugins.surgeries.tensors.compute import Filled, Joined, Part, Permuted, Sum
from surgery_plugins.surgeries.tensors.groups import Group

if TYPE_CHECKING:
    from torch import Tensor

    from surgery_plugins.surgeries.tensors.surgery import Tensors

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """A tensor that is made.

    Attributes:
        name: its name.
        shape: its shape.
        dtype: its dtype by torch's name.
        value: where its values come from.
        like: the tensor whose kind it has: parameter or buffer, trainable or not.
    """

    name: str
    shape: Shape
    dtype: str
    value: Value
    like: Tensor


def results_of(group: Group, surgery: Tensors, known: Mapping[str, Tensor]) -> Iterator[Result]:
    """Give what a surgery makes of one group.

    Args:
        group: names of what is read, and of the results.
        surgery: what is done.
        known: the tensors that there are.

    Raises:
        RefusedError: shapes or dtypes do not fit.
    """
    tensors = [known[name] for name in group.sources]
    first, targets = tensors[0], group.targets or group.sources
    dtype = name_of(first.dtype)
    for target, (shape, value) in zip(
        targets, _VERBS[surgery.do](surgery, group.sources, tensors), strict=True
    ):
        yield Result(target, shape, dtype, value, first)


def _same(made: Tensors, names: Sequence[str], old: Sequence[Tensor]) -> list[tuple[Shape, Value]]:
    return [(tuple(old[0].shape), Keep(names[0]))]


def _sum(made: Tensors, names: Sequence[str], old: Sequence[Tensor]) -> list[tuple[Shape, Value]]:
    _demand_floating(made.do, names, old)
    _demand_alike(made.do, names, old)
    each = made.by if isinstance(made.by, list) else [1.0 if made.by is None else made.by]
    factors = tuple(each * (len(old) // len(each)))
    return [(tuple(old[0].shape), Derive(tuple(names), Sum(factors)))]


def _parts(made: Tensors, names: Sequence[str], old: Sequence[Tensor]) -> list[tuple[Shape, Value]]:
    axis, shape, count = made.axis or 0, tuple(old[0].shape), len(made.targets)
    length = _length(made, names[0], old[0])
    sizes = made.sizes or [length // count] * count
    if sum(sizes) != length:
        found = f"{length} along axis {axis}"
        instead = "give their sizes under `sizes:`" if made.sizes is None else ""
        wanted = f"{count} equal parts" if made.sizes is None else f"parts of {made.sizes}"
        raise RefusedError(f"tensors: {names[0]}", wanted, found, instead)
    starts = [sum(sizes[:number]) for number in range(count)]
    return [
        ((*shape[:axis], size, *shape[axis + 1 :]), Derive((names[0],), Part(axis, start, size)))
        for start, size in zip(starts, sizes, strict=True)
    ]


def _joined(
    made: Tensors, names: Sequence[str], old: Sequence[Tensor]
) -> list[tuple[Shape, Value]]:
    axis, shape = made.axis or 0, tuple(old[0].shape)
    for tensor, name in zip(old, names, strict=True):
        _length(made, name, tensor)
    _demand_alike(made.do, names, old, but=axis)
    size = sum(tensor.shape[axis] for tensor in old)
    return [((*shape[:axis], size, *shape[axis + 1 :]), Derive(tuple(names), Joined(axis)))]


def _stacked(
    made: Tensors, names: Sequence[str], old: Sequence[Tensor]
) -> list[tuple[Shape, Value]]:
    axis, shape = made.axis or 0, tuple(old[0].shape)
    _demand_alike(made.do, names, old)
    if axis > len(shape):
        raise RefusedError(f"tensors: {names[0]}", f"axis up to {len(shape)}", str(axis))
    value = Derive(tuple(names), Joined(axis, new=True))
    return [((*shape[:axis], len(old), *shape[axis:]), value)]


def _permuted(
    made: Tensors, names: Sequence[str], old: Sequence[Tensor]
) -> list[tuple[Shape, Value]]:
    axes, shape = tuple(made.axes or ()), tuple(old[0].shape)
    if len(axes) != len(shape):
        raise RefusedError(
            f"tensors: {names[0]}", f"a tensor of {len(axes)} axes", f"shape {shape}"
        )
    return [(tuple(shape[axis] for axis in axes), Derive((names[0],), Permuted(axes)))]


def _filled(
    made: Tensors, names: Sequence[str], old: Sequence[Tensor]
) -> list[tuple[Shape, Value]]:
    _demand_floating(made.do, names, old)
    return [(tuple(old[0].shape), Init(Filled(made.value or 0.0, made.deviation or 0.0)))]


_VERBS: Mapping[
    str, Callable[[Tensors, Sequence[str], Sequence[Tensor]], list[tuple[Shape, Value]]]
] = {
    "copy": _same,
    "move": _same,
    "scale": _sum,
    "add": _sum,
    "split": _parts,
    "concatenate": _joined,
    "stack": _stacked,
    "permute": _permuted,
    "fill": _filled,
}


def _length(made: Tensors, name: str, tensor: Tensor) -> int:
    axis = made.axis or 0
    if axis >= tensor.dim():
        found = f"shape {tuple(tensor.shape)}"
        raise RefusedError(f"tensors: {name}", f"a tensor with an axis {axis}", found)
    return int(tensor.shape[axis])


def _demand_alike(
    verb: str, names: Sequence[str], old: Sequence[Tensor], but: int | None = None
) -> None:
    """Demand one dtype and one shape, of which one axis may differ."""

    def form(tensor: Tensor) -> tuple[object, ...]:
        return (tensor.dtype, *(n for axis, n in enumerate(tensor.shape) if axis != but))

    for name, tensor in zip(names, old, strict=True):
        if form(tensor) != form(old[0]):
            where = "" if but is None else f" but for axis {but}"
            raise RefusedError(
                f"tensors: {name}",
                f"{name_of(old[0].dtype)} {tuple(old[0].shape)}{where}, as {names[0]}, to {verb}",
                f"{name_of(tensor.dtype)} {tuple(tensor.shape)}",
            )


def _demand_floating(verb: str, names: Sequence[str], old: Sequence[Tensor]) -> None:
    for name, tensor in zip(names, old, strict=True):
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise RefusedError(
                f"tensors: {name}", f"floating numbers to {verb}", name_of(tensor.dtype),
                "narrow `names:`",
            )  # fmt: skip
