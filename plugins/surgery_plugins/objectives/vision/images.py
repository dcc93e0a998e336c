"""Images of samples that a vision-language model reads with a text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from surgery.operate.objective import Sample
from surgery_plugins.objectives.segmentation.picture import Numbers, Picture, picture_of
from surgery_plugins.objectives.vision.slots import Slots, slots_of

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.operate.patient import Patient

_STACKED = ("idefics2", "idefics3", "smolvlm")
"""Types of models that take several images of each sample, ``[batch, images, 3, h, w]``."""


class Images(BaseModel):
    """Read one image of each sample."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    key: str = Field("image", description="Key of the image in samples.")
    size: int | tuple[int, int] | None = Field(
        None, description="Pixels, or height and width; by default what the configuration says."
    )
    mean: Numbers | None = Field(
        None, description="Mean of each colour, 0 to 1; by default the processor's."
    )
    std: Numbers | None = Field(
        None, description="Deviation of each colour, 0 to 1; by default the processor's."
    )
    fit: Literal["squash", "pad"] = Field(
        "squash", description="Resize both sides, or the longest one and pad right and below."
    )

    def picture(self, patient: Patient) -> Picture:
        """Say how images are prepared.

        Raises:
            ValueError: neither the options nor the patient say it.
        """
        return picture_of(patient, self.size, self.mean, self.std)

    def refuse(self, patient: Patient) -> str | None:
        """Say why images cannot be read, or None: no size, no places, or a contract is broken."""
        try:
            picture, slots = self.picture(patient), slots_of(patient)
        except ValueError as error:
            return str(error)
        return next(_broken(patient, picture, slots), None)

    def pixels(self, sample: Sample, patient: Patient) -> Tensor:
        """Give the image of a sample as the model takes it, with one axis more where it has one.

        Raises:
            ValueError: there is no image.
        """
        pixels = pixels_of(sample, self.key, self.picture(patient), self.fit)
        kind = str(getattr(patient.config, "model_type", ""))
        return pixels[None] if kind in _STACKED else pixels


def pixels_of(sample: Sample, key: str, picture: Picture, fit: Literal["squash", "pad"]) -> Tensor:
    """Give an image of a sample, ``[3, height, width]``, of a size and with normal colours.

    Raises:
        ValueError: there is no image of RGB bytes under the key.
    """
    import torch

    from surgery_plugins.objectives.segmentation.tensors import fitted, read

    if key not in sample:
        raise ValueError(f"expected an image under {key!r}, got {', '.join(map(repr, sample))}")
    image = torch.as_tensor(sample[key])
    given = read({"image": image, "mask": torch.zeros(image.shape[:2])}, False)
    return fitted(given, picture, fit)["pixel_values"]


def _broken(patient: Patient, picture: Picture, slots: Slots) -> Iterator[str]:
    """Check the contracts of the model with the image and the places that it will be given."""
    import torch

    from surgery.flow.prove import violations
    from surgery.hooks.registry import registry

    image = torch.empty(1, 3, *picture.size, device="meta")
    ids = torch.full((1, slots.count), slots.token)
    seen = replace(patient, inputs={"pixel_values": image, "input_ids": ids})
    for family, found in violations(seen, registry().families()):
        if isinstance(found, Exception):
            yield f"family {family} cannot read it: {found}"
        else:
            told = f"with {slots.count} places for an image, as {slots.where} says: "
            yield from (f"{told}{one}" for one in found)
