"""The tensors of an adapter, where their values come from, and what the base keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from surgery.operate.edits import Derive, NewTensor, Rewrite
from surgery.operate.initialiser import Factors, Initialiser
from surgery_plugins.surgeries.lora.branch import EMBEDDING, Branch
from surgery_plugins.surgeries.lora.layout import Layout, layout_of
from surgery_plugins.surgeries.lora.places import Place

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from surgery_plugins.surgeries.lora.observe import Observation

_HALF = {"float16", "bfloat16"}

Residual: TypeAlias = "Callable[[Tensor, Tensor, Tensor], Tensor]"
"""Gives what the base keeps, of its matrices and the factors."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What one adapter leaves to its weight.

    Attributes:
        layout: the adapted rows.
        a: dotted name of A.
        b: dotted name of B.
        residual: gives what the rows hold from now on.
    """

    layout: Layout
    a: str
    b: str
    residual: Residual


@dataclass(eq=False)
class Beginning:
    """Give the tensors of one step's adapters.

    Attributes:
        init: how they begin.
        observation: where initialisers ask for a weight's inputs.
    """

    init: Initialiser
    observation: Observation
    _alike: dict[tuple[Any, ...], tuple[Branch, Mapping[str, NewTensor]]] = field(
        default_factory=dict
    )

    def of(self, branch: Branch, place: Place) -> tuple[Mapping[str, NewTensor], Rest | None]:
        """Give A, B and, for DoRA, M of one adapter, and what it leaves to the weight.

        Those of a half-precision base are float32, as PEFT's are by default.
        """
        if branch.m or not self.init.by_shape:
            return self._made(branch, place)
        key = (id(branch), place.shape, place.in_axis, place.groups, place.dtype)
        known = self._alike.get(key)
        if known is None:
            known = self._alike[key] = (branch, self._made(branch, place)[0])
        return known[1], None

    def _made(self, branch: Branch, place: Place) -> tuple[Mapping[str, NewTensor], Rest | None]:
        dtype = "float32" if place.dtype in _HALF else place.dtype
        layout = layout_of(branch, place)
        a, b = f"{place.path}.{branch.a}", f"{place.path}.{branch.b}"
        begin = self.init.begin(_factors(layout, branch, place, (a, b), self.observation))
        tensors = {
            branch.a: NewTensor(layout.shape_a, dtype, begin.a),
            branch.b: NewTensor(layout.shape_b, dtype, begin.b),
        }
        rest = Rest(layout, a, b, begin.residual) if begin.residual else None
        if branch.m:
            lengths = _lengths(branch, place, rest)
            tensors[branch.m] = NewTensor((place.rows,), dtype, lengths)
        return tensors, rest


def rewritten(place: Place, rests: Sequence[Rest]) -> Rewrite:
    """Give the edit that leaves a weight what its adapters did not take."""
    sources = (place.parameter, *(name for rest in rests for name in (rest.a, rest.b)))
    value = Derive(sources, _Remaining(tuple((rest.layout, rest.residual) for rest in rests)))
    return Rewrite(place.parameter, place.shape, place.dtype, value)


def _factors(
    layout: Layout, branch: Branch, place: Place, names: tuple[str, str], observation: Observation
) -> Factors:
    return Factors(
        weight=place.parameter,
        a=names[0],
        b=names[1],
        shape_a=layout.shape_a,
        shape_b=layout.shape_b,
        count=layout.count,
        rows=layout.rows,
        inner=layout.inner,
        rank=branch.rank,
        each=layout.each,
        scale=branch.scale,
        table=place.kind == EMBEDDING,
        matrices=layout.matrices,
        observe=partial(observation.add, place),
    )


def _lengths(branch: Branch, place: Place, rest: Rest | None) -> Derive:
    """Take the lengths of the weight's rows, DoRA's first magnitudes, with the adapter in them."""
    if rest is None:
        return Derive((place.parameter,), _Lengths(place.out_axis, branch.ranges))
    lengths = _LengthsWith(rest.layout, rest.residual, branch.scale)
    return Derive((place.parameter, rest.a, rest.b), lengths)


@dataclass(frozen=True)
class _Lengths:
    out_axis: int
    ranges: tuple[tuple[int, int], ...]

    def __call__(self, weight: Tensor, *, generator: Generator) -> Tensor:
        from surgery_plugins.surgeries.lora.arithmetic import norms, rows_index

        lengths = norms(weight, self.out_axis)
        return lengths[rows_index(self.ranges, lengths.device)] if self.ranges else lengths


@dataclass(frozen=True)
class _LengthsWith:
    """Take the lengths of what the rows will hold, the product added."""

    layout: Layout
    residual: Residual
    scale: float

    def __call__(self, weight: Tensor, a: Tensor, b: Tensor, *, generator: Generator) -> Tensor:
        from torch.linalg import vector_norm

        a, b = self.layout.factors(a, b)
        kept = self.residual(self.layout.matrices(weight), a, b).to(weight.dtype).to(a.dtype)
        lengths: Tensor = vector_norm(kept + self.scale * (b @ a), dim=-1)
        return lengths.flatten()


@dataclass(frozen=True)
class _Remaining:
    """Compute what a weight keeps: one adapter after another, each its own rows."""

    parts: tuple[tuple[Layout, Residual], ...]

    def __call__(self, weight: Tensor, *factors: Tensor, generator: Generator) -> Tensor:
        pairs: Iterable[Any] = zip(factors[0::2], factors[1::2], strict=True)
        for (layout, residual), (a, b) in zip(self.parts, pairs, strict=True):
            matrices = layout.matrices(weight)
            weight = layout.replaced(weight, residual(matrices, *layout.factors(a, b)))
        return weight
