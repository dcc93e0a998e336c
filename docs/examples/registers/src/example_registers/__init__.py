"""The family ``example/registers``: vision transformers with register tokens (arXiv 2309.16588)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from surgery import Patient, hookimpl
from surgery.operate.family import Family, Violation

if TYPE_CHECKING:
    from torch import nn

LEAF = "register_tokens"
KEY = "num_register_tokens"


class Registers(Family):
    """Know the registers by the name of their tensor, ``(1, registers, width)``."""

    name: ClassVar[str] = "example/registers"
    roles: ClassVar[tuple[str, ...]] = ("registers",)

    def matches(self, model: nn.Module) -> bool:
        """Tell whether a model holds registers."""
        return any(_registers(model))

    def hints(self, model: nn.Module) -> Mapping[str, frozenset[str]]:
        """Give each tensor of registers its role, for recipes' ``at: {role: registers}``."""
        return {name: frozenset({"registers"}) for name, _ in _registers(model)}

    def contracts(self, patient: Patient) -> Iterable[Violation]:
        """Demand as many registers as the configuration counts: that many rows are cut off."""
        wanted = getattr(patient.config, KEY, None)
        for name, tensor in _registers(patient.model):
            if wanted is not None and tensor.shape[1] != wanted:
                yield Violation(
                    contract="registers",
                    where=name,
                    wanted=f"{wanted} registers, as config.{KEY} says",
                    found=str(tensor.shape[1]),
                    instead=f"set config.{KEY} to {tensor.shape[1]}",
                )


def _registers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Give the tensors of registers by dotted name."""
    named = model.named_parameters()
    return ((name, tensor) for name, tensor in named if name.rpartition(".")[2] == LEAF)


@hookimpl
def surgery_families() -> Sequence[Family]:
    """Offer the family."""
    return [Registers()]
