"""One adapter of one weight, or of some rows of it. Plain data, kept beside the tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from surgery.anatomy.site import RowRange

if TYPE_CHECKING:
    from torch import Tensor, nn

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
