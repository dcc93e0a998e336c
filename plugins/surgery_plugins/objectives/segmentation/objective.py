"""The objective ``segmentation``: masks by binary cross entropy and Dice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from surgery.operate.objective import Batch, Objective, Sample, Step
from surgery_plugins.objectives.segmentation.picture import Numbers, Picture, picture_of

if TYPE_CHECKING:
    from random import Random

    from torch import nn

    from surgery.operate.patient import Patient


class Also(BaseModel):
    """Learn numbers of the samples from another output of the model, by mean squared error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    output: str = Field(description="Name of the output, such as an attached module's.")
    note: str = Field(description="Name of the numbers in the samples, one for each of the output.")
    weight: float = Field(1.0, gt=0, description="Weight of the error in the loss.")


class Segmentation(Objective):
    """Learn one mask for each image, and where the model takes prompts, for each prompt.

    A model with prompt encoder and mask decoder (SAM 2, the tracker of SAM 3) is trained through
    these two, so that no score of the whole object writes over the masks. Any other model is
    called, and the logits of its masks are found in what it returns.
    """

    name: ClassVar[str] = "segmentation"
    better: ClassVar[Mapping[str, str]] = {"loss": "min", "dice": "max", "iou": "max"}

    prompt: Literal["box", "points", "mask", "text", "none"] = Field(
        description="What tells the model which object is meant. Boxes and points are drawn from "
        "the mask; masks and texts come with the samples."
    )
    points: int = Field(1, ge=1, description="How many points are drawn in the object.")
    jitter: float = Field(
        0.1, ge=0, lt=0.5, description="Most that a side of a box moves, as a share of the box."
    )
    fit: Literal["squash", "pad"] = Field(
        "squash", description="Resize both sides, or the longest one and pad right and below."
    )
    image_size: int | tuple[int, int] | None = Field(
        None, description="Pixels, or height and width; by default what the configuration says."
    )
    mean: Numbers | None = Field(
        None, description="Mean of each colour, 0 to 1; by default the processor's."
    )
    std: Numbers | None = Field(
        None, description="Deviation of each colour, 0 to 1; by default the processor's."
    )
    flip: float = Field(0.0, ge=0, le=1, description="Share of images that are mirrored.")
    output: str | None = Field(
        None, description="Name of what the model returns that holds the logits of masks."
    )
    masks: Literal["one", "least"] = Field(
        "one", description="The only mask, or of several the one with the least loss."
    )
    also: list[Also] = Field([], description="Numbers that are learnt beside the masks.")
    bce: float = Field(1.0, ge=0, description="Weight of the binary cross entropy.")
    dice: float = Field(1.0, ge=0, description="Weight of the Dice loss.")

    @model_validator(mode="after")
    def _taught(self) -> Segmentation:
        if self.bce + self.dice == 0:
            raise ValueError("expected a weight above 0 for bce or dice")
        return self

    def refuse(self, patient: Patient) -> str | None:
        """Refuse a model without masks, prompts it does not take, and a broken geometry."""
        from surgery_plugins.objectives.segmentation.suitable import unsuitable

        return unsuitable(self, patient)

    def picture(self, patient: Patient) -> Picture:
        """Say how images are prepared for a patient.

        Raises:
            ValueError: neither the options nor the configuration say it.
        """
        return picture_of(patient, self.image_size, self.mean, self.std)

    def encode(self, sample: Sample, patient: Patient, random: Random) -> Mapping[str, Any]:
        """Prepare image, mask and prompt.

        Args:
            sample: ``image`` of ``(height, width, 3)`` bytes and ``mask`` of ``(height, width)``;
                with prompt ``mask`` also ``prompt``, such a mask; with ``text`` a text.
            patient: its configuration says the sizes; its tokenizer reads texts.
            random: draws mirroring, points and boxes.

        Returns:
            ``pixel_values`` ``(3, height, width)``; ``target`` and ``valid``, which is False in
            padding, ``(height, width)``; and the prompt.

        Raises:
            ValueError: image and mask do not fit, or the prompt is missing.
        """
        from surgery_plugins.objectives.segmentation import prompts, tensors

        given = tensors.read(sample, self.prompt == "mask")
        if random.random() < self.flip:
            given = {name: one.flip(-1) for name, one in given.items()}
        fitted = tensors.fitted(given, self.picture(patient), self.fit)
        if self.prompt == "box":
            fitted |= prompts.box(fitted["target"], self.jitter, random)
        elif self.prompt == "points":
            fitted |= prompts.points(fitted["target"], self.points, random)
        elif self.prompt == "text":
            fitted |= prompts.text(sample, patient)
        return fitted | {f"also.{one.note}": tensors.numbers(sample, one.note) for one in self.also}

    def collate(self, encoded: Sequence[Mapping[str, Any]], patient: Patient) -> Batch:
        """Stack what ``encode`` gave; texts are padded on the right."""
        from surgery_plugins.objectives.segmentation.tensors import stacked

        return stacked(encoded, getattr(patient.tokenizer, "pad_token_id", None) or 0)

    def weight(self, batch: Batch) -> float:
        """Count images."""
        return float(len(batch["pixel_values"]))

    def step(self, model: nn.Module, batch: Batch) -> Step:
        """Give the mean loss of the images, and sums of Dice and intersection over union."""
        from surgery_plugins.objectives.segmentation.run import run

        return run(self, model, batch)
