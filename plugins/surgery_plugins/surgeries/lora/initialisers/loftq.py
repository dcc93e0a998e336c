"""LoftQ: the base is rounded to few bits, and the adapter begins with what the rounding lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from surgery.operate.edits import Derive
from surgery.operate.initialiser import Begin, Factors, Initialiser
from surgery_plugins.surgeries.lora.initialisers.decomposed import (
    Once,
    Part,
    one_thread,
    principal,
    too_many,
)
from surgery_plugins.surgeries.lora.initialisers.quantise import quantised

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.anatomy.site import Site
    from surgery.operate.surgery import AtInit


class Loftq(Initialiser):
    """Round the base to few bits and begin with the best approximation of what that lost.

    LoftQ, arXiv 2310.08659, algorithm 1: rounding ``W - scale B A`` and decomposing the error take
    turns. The base holds the rounded numbers in its own dtype. Scaled so that ``scale B A``
    approximates the error at any scale; PEFT's does so at scale 1, where both are equal.
    """

    name: ClassVar[str] = "loftq"
    at_init: ClassVar[AtInit] = "changed"

    bits: Literal[2, 3, 4, 8] = Field(
        default=4,
        description="2, 3 or 4: NormalFloat in blocks of 64 inputs (arXiv 2305.14314); 8: whole "
        "numbers up to 127 times a scale for each output.",
    )
    rounds: int = Field(
        default=1, ge=1, description="How often rounding and decomposing alternate."
    )

    def refuse(self, site: Site, rank: int) -> str | None:
        """Refuse more directions than the weight has."""
        return too_many(site, rank)

    def begin(self, factors: Factors) -> Begin:
        """Derive both factors from the weight, and the rounded base from it too."""
        rounding = Rounding(self.bits, factors.each, factors.scale, self.rounds)
        split = Once(rounding.split, ("loftq", rounding))
        a = Derive((factors.weight,), Part(factors.matrices, split, 0, factors.shape_a))
        b = Derive((factors.weight,), Part(factors.matrices, split, 1, factors.shape_b))
        return Begin(a, b, rounding.residual)


@dataclass(frozen=True)
class Rounding:
    """Round a weight and decompose what that lost, in turns.

    Attributes:
        bits: see ``quantised``.
        each: the rank.
        scale: what the product of the factors will be multiplied with.
        rounds: how often the two alternate; at least 1.
    """

    bits: int
    each: int
    scale: float
    rounds: int

    def split(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """Give A ``[count, each, inner]`` and B ``[count, rows, each]`` after the last round."""
        product: Tensor | float = 0.0
        for _ in range(self.rounds):
            lost = matrices - quantised(matrices - product, self.bits)
            a, b = principal(lost, self.each, self.scale)
            product = self.scale * (b @ a)
        return a, b

    def residual(self, matrices: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Give the base of the last round: what was rounded before it was decomposed again."""
        if self.rounds == 1:
            return quantised(matrices, self.bits)
        with one_thread():
            a, b = replace(self, rounds=self.rounds - 1).split(matrices)
        return quantised(matrices - self.scale * (b @ a), self.bits)
