"""One adapter of one weight, or of some rows of it. Plain data, kept beside the tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from surgery.anatomy.site import RowRange

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Generator, Tensor, nn

    from surgery.operate.stretches import Stretches
    from surgery_plugins.surgeries.lora.folds import Adapter

LINEAR, EMBEDDING, CONV, TABLE = "linear", "embedding", "conv", "table"
"""Kinds of weights: matrices of Linear and Conv1D, token tables, kernels, raw parameters."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Say how an adapter's tensors change a weight.

    Attributes:
        adapter: the adapter's name.
        kind: kind of the weight.
        leaf: name of the weight in its module.
        a: name of the tensor A in the module.
        b: name of the tensor B in the module.
        m: name of DoRA's magnitudes in the module, or an empty text.
        rank: the rank r.
        alpha: the numerator of the scale.
        scale: ``alpha / r``, or ``alpha / sqrt(r)`` for rank-stabilised LoRA.
        dropout: share of input features that training drops.
        out_axis: axis of the weight that holds output rows.
        part: role of the rows, or an empty text for the whole weight.
        ranges: the rows of the weight that the adapter changes; empty for all.
        beside: True where the adapter runs beside the module's forward, False where the weight
            itself is seen changed.
        active: whether it takes effect now.
        factor: what ``scale`` is multiplied with now.
        residual: True where the base gave the weight's first part to the adapter, so that the
            adapter fits no other base.
        fused: whether a linear layer and the adapter run as one function where they can.
    """

    adapter: str
    kind: str
    leaf: str
    a: str
    b: str
    m: str
    rank: int
    alpha: float
    scale: float
    dropout: float
    out_axis: int
    part: str = ""
    ranges: tuple[RowRange, ...] = ()
    beside: bool = True
    active: bool = True
    factor: float = 1.0
    residual: bool = False
    fused: bool = True

    @property
    def strength(self) -> float:
        """What the product of B and A is multiplied with now; 0 where the adapter is off."""
        return self.scale * self.factor if self.active else 0.0

    def effective(self, module: nn.Module, weight: Tensor) -> Tensor:
        """Give the weight with the adapter in it."""
        from surgery_plugins.surgeries.lora.arithmetic import adapted

        if self.beside:
            return weight
        return adapted(self, module, weight)

    def factors(self) -> tuple[str, ...]:
        """Give the names of the adapter's tensors in its module: A, B and DoRA's M."""
        return (self.a, self.b, self.m) if self.m else (self.a, self.b)

    @staticmethod
    def fold(
        weight: Stretches,
        extensions: Sequence[tuple[Branch, Sequence[Tensor]]],
        generator: Generator,
    ) -> Iterator[tuple[Tensor, float]]:
        """Fold adapters into a weight, and compare with the adapters beside it."""
        from surgery_plugins.surgeries.lora.folding import folded

        return folded(weight, _adapters(extensions), generator)


def _adapters(extensions: Sequence[tuple[Branch, Sequence[Tensor]]]) -> list[Adapter]:
    return [(one, t[0], t[1], t[2] if one.m else None) for one, t in extensions]


@lru_cache(maxsize=4096)
def branch_of(  # noqa: PLR0913
    adapter: str,
    kind: str,
    leaf: str,
    stem: str,
    dora: bool,
    rank: int,
    alpha: float,
    scale: float,
    dropout: float,
    out_axis: int,
    part: str,
    ranges: tuple[RowRange, ...],
    beside: bool,
) -> Branch:
    """Give the one object for adapters that differ in nothing but their module.

    ``stem`` begins the names of the tensors; for the rest see ``Branch``.
    """
    a, b, m = f"{stem}_A", f"{stem}_B", f"{stem}_M" if dora else ""
    return Branch(
        adapter, kind, leaf, a, b, m, rank, alpha, scale, dropout, out_axis, part, ranges, beside
    )
