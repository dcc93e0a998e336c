"""The surgery ``example/gain``: what linear layers give, times a vector that is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pydantic import Field

from surgery import Patient, Site, Surgery, hookimpl
from surgery.operate.behaviour import Behaviour
from surgery.operate.edits import Edit, Extend, Init, NewTensor


class Gained(Behaviour):
    """Multiply what the module gives by its gain."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Give ``(..., features)`` times ``(features,)``, in the dtype of the module's output."""
        out = super().forward(*args, **kwargs)  # type: ignore[misc]
        return out * self._parameters["gain"].to(out.dtype)  # type: ignore[attr-defined]


class Gain(Surgery):
    """Multiply what linear layers give by a learned vector, as (IA)³ does (arXiv 2205.05638)."""

    name: ClassVar[str] = "example/gain"
    identity_at_init: ClassVar[bool] = True
    examples: ClassVar[Sequence[dict[str, Any]]] = (
        {"at": {"type": "Linear", "exclude": {"role": "head"}}},
        {"at": {"role": "mlp.down"}, "with": {"trainable": False}},
    )

    trainable: bool = Field(True, description="Whether the gains take gradients.")

    def refuse(self, site: Site) -> str | None:
        """Refuse all but linear layers that are called."""
        if "Linear" not in site.types or site.part is not None:
            return "it is no linear layer"
        return "another module reads its weight without calling it" if site.direct else None

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Place a vector of ones beside each layer, in the dtype of its weight."""
        for site in sites:
            dtype = str(patient.model.get_submodule(site.path).weight.dtype).removeprefix("torch.")
            ones = Init(lambda tensor, generator: tensor.fill_(1.0))
            gain = NewTensor(site.shape[:1], dtype, ones, trainable=self.trainable)
            yield Extend(site.path, "gain", Gained.here, tensors={"gain": gain})


@hookimpl
def surgery_surgeries() -> Sequence[type[Surgery]]:
    """Offer the surgery."""
    return [Gain]
