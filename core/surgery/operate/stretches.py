"""Tensors that are read and computed a stretch at a time, so that none is whole in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from surgery.checkpoint.header import TensorEntry
from surgery.checkpoint.tensors import read_stretch, read_tensor
from surgery.operate.dtypes import dtype_of

if TYPE_CHECKING:
    from torch import Generator, Tensor, dtype

STRETCH_BYTES = 1 << 18
"""Bytes of a stretch, about: enough that reading costs little, and few enough for a cache."""

ROOM = 64 << 20
"""Bytes that computing a tensor stretch by stretch takes, beside its other sources."""


class Stretches:
    """Give a tensor stretch by stretch, wherever it is.

    Args:
        of: a tensor in memory, or a stored one.

    Attributes:
        shape: its shape.
        dtype: its torch dtype.
    """

    def __init__(self, of: Tensor | TensorEntry) -> None:
        self._of = of if isinstance(of, TensorEntry) else of.detach().cpu().contiguous()
        self.shape: tuple[int, ...] = tuple(of.shape)
        self.dtype: dtype = dtype_of(of.dtype) if isinstance(of, TensorEntry) else of.dtype

    def flat(self, start: int, stop: int) -> Tensor:
        """Give the elements ``start`` to ``stop`` (excluded), ``[stop - start]``, not to change.

        Raises:
            IntegrityError: the file is damaged, or has changed.
        """
        if isinstance(self._of, TensorEntry):
            return read_stretch(self._of, start, stop)
        return self._of.view(-1)[start:stop]

    def rows(self, start: int, stop: int) -> Tensor:
        """Give the rows ``start`` to ``stop`` (excluded) of axis 0, not to change.

        Raises:
            IntegrityError: the file is damaged, or has changed.
        """
        width = prod(self.shape[1:])
        return self.flat(start * width, stop * width).view(stop - start, *self.shape[1:])

    def in_rows(self, count: int | None = None) -> Iterator[Tensor]:
        """Give the first rows of axis 0, or all, some at a time; not to change.

        Raises:
            IntegrityError: the file is damaged, or has changed.
        """
        count = self.shape[0] if count is None else count
        step = max(STRETCH_BYTES // (prod(self.shape[1:]) * self.dtype.itemsize or 1), 1)
        yield from (self.rows(n, min(n + step, count)) for n in range(0, count, step))

    def whole(self) -> Tensor:
        """Give the tensor in memory, not to change.

        Raises:
            IntegrityError: the file is damaged, or has changed.
        """
        return read_tensor(self._of) if isinstance(self._of, TensorEntry) else self._of


@runtime_checkable
class Piecewise(Protocol):
    """A computation of ``Derive`` that can give its result piece by piece, with the same bits."""

    def pieces(self, first: Stretches, *others: Tensor, generator: Generator) -> Iterator[Tensor]:
        """Give the elements of the result in order, a few MB at a time, of any shapes.

        Args:
            first: the first source.
            others: the other sources.
            generator: seeded from the recipe's seed and the tensor's name.
        """


def joined(pieces: Iterable[Tensor], shape: tuple[int, ...], kind: Any) -> Tensor:
    """Give the tensor of a shape that consecutive pieces make up.

    Args:
        pieces: its elements in order.
        shape: its shape.
        kind: its torch dtype.
    """
    import torch

    result = torch.empty(shape, dtype=kind)
    flat, done = result.view(-1), 0
    for piece in pieces:
        flat[done : done + piece.numel()] = piece.reshape(-1)
        done += piece.numel()
    return result
