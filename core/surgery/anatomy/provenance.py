"""Where a tensor comes from: what the tracer knows of each tensor it has seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(eq=False, slots=True)
class Origin:
    """One contraction of data with a weight: a new beginning for provenance.

    Attributes:
        weights: names of the parameters that the weight was made of.
        stream: True where the data it read is the residual stream.
        inputs: origins of the data it read.
        calls: attention calls whose output it read.
        glu: origins on the two sides of the last product that its input was, activated one first.
        kind: ``linear``, ``conv`` or ``embedding``.
        modes: which inputs of the model it depends on.
        output: what it gave.
        weight: the weight as it was read, perhaps a view of the parameter.
        joined: True once its output was added to the residual stream.
        activated: True once its output passed an activation.
        first: True where it read an input of the model itself.
        patch: True for a convolution whose stride is its kernel.
        rows: rows of the weight that were read, where the function called defines them.
        out_dim: axis of ``weight`` that holds output rows.
        in_dim: axis of ``weight`` that holds input features, or None.
    """

    weights: frozenset[str]
    stream: bool
    inputs: frozenset[Origin]
    calls: frozenset[Attention]
    glu: tuple[Known, Known] | None
    kind: str
    modes: frozenset[str]
    output: Tensor | None = None
    weight: Tensor | None = None
    joined: bool = False
    activated: bool = False
    first: bool = False
    patch: bool = False
    rows: tuple[tuple[int, int], ...] | None = None
    out_dim: int = -2
    in_dim: int | None = -1


@dataclass(eq=False, slots=True)
class Attention:
    """One call of attention: what arrived as q, k and v."""

    q: Known
    k: Known
    v: Known
    proj: list[Origin] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Known:
    """What is known of one tensor.

    Attributes:
        tensor: the tensor, kept alive so that its id stays its own.
        weights: names of the parameters it is made of, if of nothing else.
        origins: the last contractions that its values went through.
        calls: attention calls whose output it is made of.
        modes: inputs of the model that it depends on; empty for constants.
        stream: True for the residual stream.
        activated: True after an activation.
        scores: q and k whose product it is.
        probs: q and k whose softmax it is.
        glu: the two sides of the product it is.
        scaled: True for the inverse deviation, then for normalised data.
        made: function, arguments and number of the result, to follow rows through it.
    """

    tensor: Tensor
    weights: frozenset[str] = frozenset()
    origins: frozenset[Origin] = frozenset()
    calls: frozenset[Attention] = frozenset()
    modes: frozenset[str] = frozenset()
    stream: bool = False
    activated: bool = False
    scores: tuple[Known, Known] | None = None
    probs: tuple[Known, Known] | None = None
    glu: tuple[Known, Known] | None = None
    scaled: str = ""
    made: tuple[Any, tuple[Any, ...], dict[str, Any], int] | None = None

    @property
    def is_data(self) -> bool:
        """Tell whether it depends on an input of the model."""
        return bool(self.modes)

    @property
    def is_weight(self) -> bool:
        """Tell whether it is made of parameters alone."""
        return bool(self.weights) and not self.modes
