"""Initialisers that draw: the base keeps every bit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod, sqrt
from typing import TYPE_CHECKING, ClassVar

from surgery.errors import RefusedError
from surgery.operate.edits import Derive, Init
from surgery.operate.initialiser import Begin, Factors, Initialiser
from surgery_plugins.surgeries.lora.places import fan_in

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from surgery.anatomy.site import Site
    from surgery.operate.surgery import AtInit


class Kaiming(Initialiser):
    """Draw A within 1 / sqrt(inputs), B zero: LoRA's own beginning, and PEFT's default.

    Kaiming's uniform with a = sqrt(5), arXiv 1502.01852. Of an embedding A is zero and B is drawn
    with deviation 1, as in PEFT.
    """

    name: ClassVar[str] = "kaiming"
    by_shape: ClassVar[bool] = True

    def begin(self, factors: Factors) -> Begin:
        """Draw A, or an embedding's B."""
        return TABLE if factors.table else _drawn(_Uniform(1 / sqrt(factors.inner)))


class Gaussian(Initialiser):
    """Draw A with deviation 1 / r, B zero, as PEFT's ``gaussian``.

    Of an embedding A is zero and B is drawn with deviation 1, as in PEFT.
    """

    name: ClassVar[str] = "gaussian"
    by_shape: ClassVar[bool] = True

    def begin(self, factors: Factors) -> Begin:
        """Draw A, or an embedding's B."""
        return TABLE if factors.table else _drawn(_Normal(1 / factors.rank))


class Orthonormal(Initialiser):
    """Draw A with orthonormal rows, B zero (arXiv 1312.6120); of an embedding A is zero."""

    name: ClassVar[str] = "orthonormal"
    by_shape: ClassVar[bool] = True

    def refuse(self, site: Site, rank: int) -> str | None:
        """Refuse more rows than can be orthonormal."""
        drawn = fan_in(site)
        if rank <= drawn:
            return None
        return f"{rank} rows of {drawn} numbers cannot be orthonormal; choose another init"

    def begin(self, factors: Factors) -> Begin:
        """Draw A, or an embedding's B."""
        if factors.table:
            return Begin(ZERO, Init(_orthonormal))
        return _drawn(_Orthonormal((factors.count, factors.each, factors.inner)))


class Orthogonal(Initialiser):
    """Draw both factors so that B A is zero: PEFT's ``orthogonal``.

    Half of the directions of an orthogonal r by r matrix go to A and the other half to B, each
    mixed by normal numbers of deviation 0.1 (https://datta0.github.io/posts/rethink-lora-init).
    """

    name: ClassVar[str] = "orthogonal"
    at_init: ClassVar[AtInit] = "close"

    def refuse(self, site: Site, rank: int) -> str | None:
        """Refuse ranks that cannot be halved."""
        return f"rank {rank} has no half; choose an even rank" if rank % 2 else None

    def begin(self, factors: Factors) -> Begin:
        """Draw A, and B where A has no direction.

        Raises:
            RefusedError: a group's share of the rank has no half.
        """
        if factors.each % 2:
            raise RefusedError(
                f"{factors.weight} (lora)",
                "an even rank for each group",
                f"rank {factors.each} for each",
                "choose another rank, or another init",
            )
        shape = (factors.count, factors.each, factors.inner)
        other = _OtherHalf(shape, factors.shape_b)
        return Begin(Init(_Half(shape)), Derive((factors.a,), other))


def _zero(tensor: Tensor, generator: Generator) -> None:
    tensor.zero_()


def _normal(tensor: Tensor, generator: Generator) -> None:
    tensor.normal_(generator=generator)


ZERO = Init(_zero)
"""Zeros."""

TABLE = Begin(ZERO, Init(_normal))
"""How an embedding's adapter begins, as in PEFT: A zero, B normal."""


@cache
def _drawn(fill: _Uniform | _Normal | _Orthonormal) -> Begin:
    return Begin(Init(fill), ZERO)


@dataclass(frozen=True)
class _Uniform:
    bound: float

    def __call__(self, tensor: Tensor, generator: Generator) -> None:
        tensor.uniform_(-self.bound, self.bound, generator=generator)


@dataclass(frozen=True)
class _Normal:
    deviation: float

    def __call__(self, tensor: Tensor, generator: Generator) -> None:
        tensor.normal_(std=self.deviation, generator=generator)


@dataclass(frozen=True)
class _Orthonormal:
    shape: tuple[int, int, int]

    def __call__(self, tensor: Tensor, generator: Generator) -> None:
        for matrix in tensor.view(self.shape):
            _orthonormal(matrix, generator)


def _orthonormal(tensor: Tensor, generator: Generator) -> None:
    """Draw orthonormal rows, or columns where there are fewer of them."""
    from torch.nn.init import orthogonal_

    orthogonal_(tensor, generator=generator)


@dataclass(frozen=True)
class _Half:
    shape: tuple[int, int, int]

    def __call__(self, tensor: Tensor, generator: Generator) -> None:
        import torch

        _, rank, inner = self.shape
        for matrix in tensor.view(self.shape):
            turned = torch.linalg.qr(torch.randn(rank, rank, generator=generator))[0]
            mixed = torch.randn(inner, rank // 2, generator=generator) @ turned[0::2] / 10
            matrix.copy_(mixed.T)


@dataclass(frozen=True)
class _OtherHalf:
    """Draw B from the directions that are orthogonal to every column of A."""

    shape: tuple[int, int, int]
    shape_b: tuple[int, ...]

    def __call__(self, a: Tensor, *, generator: Generator) -> Tensor:
        import torch

        count, rank, _ = self.shape
        turned = torch.linalg.qr(a.view(self.shape), mode="complete")[0]
        rows = prod(self.shape_b) // (count * rank)
        drawn = torch.randn(count, rows, rank // 2, generator=generator, dtype=a.dtype)
        b: Tensor = drawn @ turned[:, :, rank // 2 :].mT / 10
        return b.reshape(self.shape_b)
