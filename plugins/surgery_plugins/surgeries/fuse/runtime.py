"""What a module does whose children were fused: it still finds each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import nn

from surgery.anatomy.extended import EXTENSIONS
from surgery.operate.behaviour import Behaviour

if TYPE_CHECKING:
    from torch import Tensor

HELD = "_surgery_products"
"""Attribute of a module while its forward runs: the products of its fused weights."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """Say which child holds which others.

    Attributes:
        into: name of the fused child.
        parts: names of the children that it stands for, in the order of rows.
        rows: how many rows each has.
        out_axis: axis of the weight that holds output rows.
    """

    into: str
    parts: tuple[str, ...]
    rows: tuple[int, ...]
    out_axis: int

    def stretch(self, part: str) -> slice:
        """Give the rows of a part."""
        number = self.parts.index(part)
        start = sum(self.rows[:number])
        return slice(start, start + self.rows[number])


class Fused(Behaviour):
    """Give code that expects several children the rows of one; one product serves them all."""

    structural: ClassVar[bool] = True

    def __getattr__(self, name: str) -> Any:
        """Give a part where a child of that name was fused."""
        for fusion in _fusions(cast("nn.Module", self)):
            if name in fusion.parts:
                return Part(cast("nn.Module", self), fusion, name)
        return super().__getattr__(name)  # type: ignore[misc]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own forward; products are kept until it ends."""
        self.__dict__[HELD] = {}
        try:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.__dict__.pop(HELD, None)


class Part:
    """Stand for a child that was fused: some rows of the one that holds it.

    Args:
        owner: the module that had the child.
        fusion: which child holds it.
        name: its name.
    """

    def __init__(self, owner: nn.Module, fusion: Fusion, name: str) -> None:
        self._owner, self._fusion, self._rows = owner, fusion, fusion.stretch(name)
        self.out_features = self._rows.stop - self._rows.start

    def __call__(self, x: Tensor) -> Tensor:
        """Give ``[..., rows]`` of ``[..., in]``."""
        return product(self._owner, self._fusion.into, x)[..., self._rows]

    forward = __call__

    @property
    def in_features(self) -> int:
        """How many numbers it is given for each position."""
        return int(self.weight.shape[1 - self._fusion.out_axis])

    @property
    def weight(self) -> Tensor:
        """Its rows of the fused weight, a view."""
        whole: Any = self._owner.get_submodule(self._fusion.into).weight
        rows: Tensor = whole[self._rows] if self._fusion.out_axis == 0 else whole[:, self._rows]
        return rows

    @property
    def bias(self) -> Tensor | None:
        """Its rows of the fused bias, a view; None where there is none."""
        whole: Any = self._owner.get_submodule(self._fusion.into).bias
        return None if whole is None else whole[self._rows]


def product(owner: nn.Module, into: str, x: Tensor) -> Tensor:
    """Give what a fused child makes of an input; computed once while its owner's forward runs.

    An input that is another tensor, or was written to, is computed anew: parts need not be
    given the same.

    Args:
        owner: the module that has the child.
        into: the child's name.
        x: the input, ``[..., in]``.
    """
    held: dict[str, tuple[Any, ...]] | None = owner.__dict__.get(HELD)
    state = (torch.is_grad_enabled(), None if x.is_inference() else x._version)
    known = None if held is None else held.get(into)
    if known is not None and known[0] is x and known[1] == state:
        return cast("Tensor", known[2])
    result: Tensor = owner.get_submodule(into)(x)
    if held is not None:
        held[into] = (x, state, result)
    return result


def _fusions(module: nn.Module) -> Iterator[Fusion]:
    table = module.__dict__.get(EXTENSIONS, {})
    return (e.settings for e in table.values() if isinstance(e.settings, Fusion))
