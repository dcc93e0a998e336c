"""What an adapter on one weight needs to run: plain data, kept beside its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.anatomy.site import RowRange

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = "lora"


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Describe one adapter on one weight; where no wrapper says else, it runs beside ``forward``.

    Attributes:
        adapter: the adapter's name.
        stem: what the names of its tensors begin with; ``_A``, ``_B`` and ``_M`` follow.
        part: the role whose rows are adapted, or None for the whole weight.
        ranges: these rows; empty for the whole weight.
        rank: r.
        scale: what the product is multiplied with, alpha / r or alpha / sqrt(r).
        dropout: probability of dropping an input while training.
        dora: whether the magnitude is a tensor of its own.
        out_axis: axis of the weight that B's rows follow.
        in_axis: axis of the weight that A's columns follow.
        groups: groups of a convolution, 0 where the weight is no convolution's.
        active: whether the adapter takes effect.
        factor: what a user multiplies ``scale`` with at run time.
    """

    adapter: str
    stem: str
    part: str | None
    ranges: tuple[RowRange, ...]
    rank: int
    scale: float
    dropout: float = 0.0
    dora: bool = False
    out_axis: int = 0
    in_axis: int = 1
    groups: int = 0
    active: bool = True
    factor: float = 1.0

    @property
    def strength(self) -> float:
        """The factor in front of the product now."""
        return self.scale * self.factor


@dataclass(frozen=True, slots=True)
class EffectiveLora:
    """Show the adapted values under a parameter's name, for whoever reads it.

    Attributes:
        leaf: name of the parameter in its module.
        lora: the adapter.
    """

    leaf: str
    lora: LoraSettings

    def effective(self, module: nn.Module, weight: Tensor) -> Tensor:
        """Give the weight with the adapter's difference added, same shape and dtype."""
        if not self.lora.active:
            return weight
        from surgery_plugins.surgeries.lora.delta import adapted

        return adapted(self.lora, module, module._parameters[self.leaf], weight)


def lora_of(settings: object) -> LoraSettings | None:
    """Give the adapter that an extension's settings describe, or None."""
    if isinstance(settings, EffectiveLora):
        return settings.lora
    return settings if isinstance(settings, LoraSettings) else None


def loras(table: Mapping[str, object]) -> Iterator[tuple[str, LoraSettings]]:
    """Give the adapters of a table of extensions, by extension name, in order of placing."""
    for name, extend in table.items():
        found = lora_of(getattr(extend, "settings", None))
        if found is not None:
            yield name, found
