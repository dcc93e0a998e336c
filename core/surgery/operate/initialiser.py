"""The contract of an initialiser: how the two factors of a low-rank adapter begin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from surgery.operate.surgery import AtInit

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.anatomy.site import Site
    from surgery.operate.edits import Value


@dataclass(frozen=True, slots=True)
class Factors:
    """What is to begin: the adapter makes ``W + scale * B @ A`` of a weight ``W``.

    Every kind of weight is seen as ``count`` matrices of ``rows`` outputs and ``inner`` inputs:
    one for a matrix, a table or some rows of them, one for each group of a convolution, one for
    each expert. A and B are ``[count, each, inner]`` and ``[count, rows, each]``, reshaped.

    Attributes:
        weight: dotted name of W.
        a: dotted name of A.
        b: dotted name of B.
        shape_a: shape of A as it is stored.
        shape_b: shape of B as it is stored.
        count: how many matrices there are.
        rows: outputs of each.
        inner: inputs of each; of a table, its entries.
        rank: the adapter's rank.
        each: rank of each matrix; of a convolution in groups, their share of ``rank``.
        scale: the factor in front of ``B @ A``.
        table: True where the inputs are numbers of entries, as of an embedding.
        matrices: gives the adapted rows of W as ``[count, rows, inner]``, in at least float32.
        observe: ``observe(file, batch, fold)`` has the patient run forwards over the samples of
            a safetensors file, whose tensors are keyword arguments of its forward, ``batch``
            samples at a time. ``fold(state, inputs)`` is called with the weight's inputs
            ``[n, inner]`` of each forward and gives the new state; the first is None. What
            ``observe`` gives is called when values are computed, and gives the last state;
            such a value says ``Init(fill, live=True)``.
    """

    weight: str
    a: str
    b: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    count: int
    rows: int
    inner: int
    rank: int
    each: int
    scale: float
    table: bool
    matrices: Callable[[Tensor], Tensor]
    observe: Callable[[str, int, Callable[[Any, Tensor], Any]], Callable[[], Any]]


@dataclass(frozen=True, slots=True)
class Begin:
    """How the factors begin.

    Attributes:
        a: where A's values come from.
        b: where B's values come from; it may be derived from A.
        residual: called as ``residual(matrices, a, b)`` with ``[count, rows, inner]`` and the
            factors as ``[count, each, inner]`` and ``[count, rows, each]``; gives the matrices
            that the base holds from now on. None where the base stays.
    """

    a: Value
    b: Value
    residual: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None


class Initialiser(BaseModel):
    """Say how the factors of an adapter begin; its fields are its options in a recipe.

    Attributes:
        name: what a recipe writes under ``init:``. Third parties write ``vendor/name``.
        at_init: what the outputs are before training: ``equal`` bit for bit, ``close`` up to
            rounding, or ``changed``.
        by_shape: True where ``begin`` looks at shapes, rank and scale alone, and never at names
            or data: adapters that are alike in those then share one answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]
    at_init: ClassVar[AtInit] = "equal"
    by_shape: ClassVar[bool] = False

    def refuse(self, site: Site, rank: int) -> str | None:
        """Say why an adapter of a rank cannot begin so at a site; None where it can."""
        return None

    @abstractmethod
    def begin(self, factors: Factors) -> Begin:
        """Say where the values of one adapter come from.

        Args:
            factors: what is to begin; the weight may be on meta.
        """
