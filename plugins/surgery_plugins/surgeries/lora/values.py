"""The tensors of an adapter, and how they begin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod, sqrt
from typing import TYPE_CHECKING

from surgery.operate.edits import Derive, Init, NewTensor
from surgery_plugins.surgeries.lora.branch import CONV, EMBEDDING, TABLE, Branch
from surgery_plugins.surgeries.lora.places import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

_ORTHO = "orthogonal"

_HALF = {"float16", "bfloat16"}


def tensors_of(branch: Branch, place: Place, init: str, dora: bool) -> dict[str, NewTensor]:
    """Give A, B and, for DoRA, M of one adapter.

    Those of a half-precision base are float32, as PEFT's are by default.
    """
    dtype = "float32" if place.dtype in _HALF else place.dtype
    shape = (place.shape, branch.rank, place.rows, place.kind, place.groups, place.in_axis)
    a, b = _pair(*shape, dtype, init)
    tensors = {branch.a: a, branch.b: b}
    if dora:
        lengths = _Lengths(place.out_axis, branch.ranges)
        tensors[branch.m] = NewTensor((place.rows,), dtype, Derive((place.parameter,), lengths))
    return tensors


@cache
def _pair(  # noqa: PLR0913
    shape: tuple[int, ...], rank: int, rows: int, kind: str, groups: int, inner: int, dtype: str,
    init: str,
) -> tuple[NewTensor, NewTensor]:  # fmt: skip
    if kind == EMBEDDING:
        return (
            NewTensor((rank, shape[0]), dtype, Init(_zero)),
            NewTensor((rows, rank), dtype, Init(_orthonormal if init == _ORTHO else _normal)),
        )
    draw = Init(_fill(kind, rank, init, experts=kind == TABLE and len(shape) == 3))
    if kind == CONV:
        ones = (1,) * (len(shape) - 2)
        return (
            NewTensor((rank, *shape[1:]), dtype, draw),
            NewTensor((rows, rank // groups, *ones), dtype, Init(_zero)),
        )
    front = shape[:1] if len(shape) == 3 else ()
    return (
        NewTensor((*front, rank, shape[inner]), dtype, draw),
        NewTensor((*front, rows, rank), dtype, Init(_zero)),
    )


def _fill(
    kind: str, rank: int, init: str, *, experts: bool
) -> Callable[[Tensor, Generator], object]:
    if init == "gaussian":
        return _Gaussian(rank)
    if init == _ORTHO:
        return _each_orthonormal if experts else _orthonormal
    return _uniform_kernel if kind == CONV else _uniform


def _zero(tensor: Tensor, generator: Generator) -> None:
    tensor.zero_()


def _normal(tensor: Tensor, generator: Generator) -> None:
    tensor.normal_(generator=generator)


def _uniform(tensor: Tensor, generator: Generator) -> None:
    """Draw as Kaiming's uniform with a = sqrt(5), arXiv 1502.01852: within 1 / sqrt(fan in)."""
    bound = 1 / sqrt(tensor.shape[-1])
    tensor.uniform_(-bound, bound, generator=generator)


def _uniform_kernel(tensor: Tensor, generator: Generator) -> None:
    """Draw as ``_uniform``; the fan in of a kernel counts its places too."""
    bound = 1 / sqrt(prod(tensor.shape[1:]))
    tensor.uniform_(-bound, bound, generator=generator)


def _orthonormal(tensor: Tensor, generator: Generator) -> None:
    """Draw orthonormal rows, or columns where there are fewer of them, arXiv 1312.6120."""
    from torch.nn.init import orthogonal_

    orthogonal_(tensor, generator=generator)


def _each_orthonormal(tensor: Tensor, generator: Generator) -> None:
    for expert in tensor:
        _orthonormal(expert, generator)


@dataclass(frozen=True)
class _Gaussian:
    """Draw with standard deviation 1 / r, as PEFT does."""

    rank: int

    def __call__(self, tensor: Tensor, generator: Generator) -> None:
        tensor.normal_(std=1 / self.rank, generator=generator)


@dataclass(frozen=True)
class _Lengths:
    """Take the lengths of the weight's rows, DoRA's first magnitudes."""

    out_axis: int
    ranges: tuple[tuple[int, int], ...]

    def __call__(self, weight: Tensor, generator: Generator) -> Tensor:
        from surgery_plugins.surgeries.lora.arithmetic import norms, rows_index

        lengths = norms(weight, self.out_axis)
        return lengths[rows_index(self.ranges, lengths.device)] if self.ranges else lengths
