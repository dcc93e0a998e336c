"""Initialisers that move a part of the base weight into the adapter, which then is trained.

The base keeps the rest, so that the outputs are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from pydantic import Field

from surgery.operate.edits import Derive
from surgery.operate.initialiser import Begin, Factors, Initialiser
from surgery_plugins.surgeries.lora.places import largest_rank

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from surgery.anatomy.site import Site
    from surgery.operate.surgery import AtInit

Split: TypeAlias = "Callable[[Tensor], tuple[Tensor, Tensor]]"
"""Gives A ``[count, each, inner]`` and B ``[count, rows, each]`` of ``[count, rows, inner]``."""


class Pissa(Initialiser):
    """Begin with the weight's first singular directions; the base keeps the others.

    PiSSA, arXiv 2404.02948, scaled as in PEFT: ``A = sqrt(S / scale) V'``, ``B = U sqrt(S /
    scale)``, and the base is ``W - scale B A``. Each row of A has its largest number positive.
    """

    name: ClassVar[str] = "pissa"
    at_init: ClassVar[AtInit] = "close"

    iterations: int = Field(
        default=0,
        ge=0,
        description="0 for the exact decomposition; else the power iterations of a randomised "
        "one (arXiv 0909.4061), faster by far, as PEFT's pissa_niter_N.",
    )

    def refuse(self, site: Site, rank: int) -> str | None:
        """Refuse more directions than the weight has."""
        return too_many(site, rank)

    def begin(self, factors: Factors) -> Begin:
        """Derive both factors from the weight."""
        split = partial(principal, each=factors.each, scale=factors.scale, steps=self.iterations)
        key = ("pissa", factors.each, factors.scale, self.iterations)
        return split_off(factors, Once(split, key))


class Olora(Initialiser):
    """Begin with the first columns of Q and rows of R, where ``W = Q R``; the base keeps the rest.

    OLoRA, arXiv 2406.01775, as in PEFT: B is orthonormal, and the base is ``W - scale B A``. Of a
    weight stored input first the transpose is decomposed, which PEFT does not do.
    """

    name: ClassVar[str] = "olora"
    at_init: ClassVar[AtInit] = "close"

    def refuse(self, site: Site, rank: int) -> str | None:
        """Refuse more directions than the weight has."""
        return too_many(site, rank)

    def begin(self, factors: Factors) -> Begin:
        """Derive both factors from the weight."""
        split = partial(triangular, each=factors.each)
        return split_off(factors, Once(split, ("olora", factors.each)))


def principal(matrices: Tensor, each: int, scale: float, steps: int = 0) -> tuple[Tensor, Tensor]:
    """Give factors of the best approximation of a rank, its singular values shared evenly.

    Args:
        matrices: ``[count, rows, inner]``.
        each: the rank.
        scale: what the product of the factors will be multiplied with.
        steps: power iterations of a randomised decomposition; 0 for the exact one.

    Returns:
        A and B with ``scale B A`` the approximation (Eckart and Young 1936).
    """
    left, values, right = _randomised(matrices, each, steps) if steps else _exact(matrices)
    left, values, right = left[..., :each], values[..., :each], right[..., :each, :]
    signs = right.gather(-1, right.abs().argmax(-1, keepdim=True)).sign()
    share = (values / scale).sqrt()
    return share.unsqueeze(-1) * right * signs, left * share.unsqueeze(-2) * signs.mT


def triangular(matrices: Tensor, each: int) -> tuple[Tensor, Tensor]:
    """Give the first rows of R and columns of Q of ``matrices = Q R``.

    Q's first columns depend on those of the matrix alone, and R's first rows are their products
    with the matrix: no whole decomposition is needed.
    """
    import torch

    b = torch.linalg.qr(matrices[..., :each])[0]
    return (b.mT @ matrices).triu(), b


def too_many(site: Site, rank: int) -> str | None:
    """Say why a weight has no part of a rank."""
    most = largest_rank(site)
    return None if rank <= most else f"its weight has rank {most}, not {rank}; choose a smaller one"


def split_off(factors: Factors, split: Split) -> Begin:
    """Begin with what a split gives of the weight, and take the product away from the base."""
    a = Derive((factors.weight,), Part(factors.matrices, split, 0, factors.shape_a))
    b = Derive((factors.weight,), Part(factors.matrices, split, 1, factors.shape_b))
    return Begin(a, b, _Rest(factors.scale))


@dataclass(frozen=True)
class Part:
    """Compute one factor of a weight.

    Attributes:
        matrices: gives the adapted rows of the weight.
        split: gives both factors of them.
        number: 0 for A, 1 for B.
        shape: shape of the factor as it is stored.
    """

    matrices: Callable[[Tensor], Tensor]
    split: Split
    number: int
    shape: tuple[int, ...]

    def __call__(self, weight: Tensor, *, generator: Generator) -> Tensor:
        """Give the factor."""
        return self.split(self.matrices(weight))[self.number].reshape(self.shape)


@dataclass(frozen=True)
class _Rest:
    scale: float

    def __call__(self, matrices: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return matrices - self.scale * (b @ a)


_LAST: dict[object, tuple[Tensor, Tensor]] = {}


@dataclass(frozen=True)
class Once:
    """Split equal matrices once: A and B are asked for one after the other.

    The last pair is kept with a digest of the bytes it was made of, so that the answer depends
    on nothing but the matrices.

    Attributes:
        split: what to do.
        key: tells this split from others.
    """

    split: Split
    key: tuple[object, ...]

    def __call__(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """Give A and B; from a copy, since products depend on how memory is aligned."""
        import torch

        key = (self.key, tuple(matrices.shape), _digest(matrices))
        pair = _LAST.get(key)
        if pair is None:
            with one_thread():
                pair = self.split(matrices.clone(memory_format=torch.contiguous_format))
            _LAST.clear()
            _LAST[key] = pair
        return pair


@contextmanager
def one_thread() -> Iterator[None]:
    """Calculate on one thread: decompositions then have the same bits however many there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _digest(tensor: Tensor) -> bytes:
    from hashlib import sha256

    return sha256(tensor.detach().cpu().contiguous().numpy().data).digest()


def _exact(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    return left, values, right


def _randomised(matrices: Tensor, each: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose what power iterations find from random directions (Halko et al., 4.4 and 5.1)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrices.shape[-1], each, generator=generator, dtype=matrices.dtype)
    basis = torch.linalg.qr(matrices @ start)[0]
    for _ in range(steps):
        basis = torch.linalg.qr(matrices @ torch.linalg.qr(matrices.mT @ basis)[0])[0]
    left, values, right = _exact(basis.mT @ matrices)
    return basis @ left, values, right
