"""The objective ``pseudo-gumbel``: masks from captions that a teacher writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from surgery.operate.objective import Batch, Objective, Sample, Step

if TYPE_CHECKING:
    from random import Random

    from torch import Tensor, nn

    from surgery.operate.patient import Patient
    from surgery_plugins.objectives.pseudo_gumbel.teacher import Teacher

Colours = tuple[float, float, float]


_IMAGE, _REGION, _CAPTION = _EVERY = ("{image}", "{region}", "{caption}")
_TIMES = ("never", "once")
_PLACES = {
    "ask": ((_IMAGE,), (_REGION,), (_IMAGE, _REGION)),
    "point": ((_IMAGE, _CAPTION), (), (_IMAGE, _CAPTION)),
    "answer": ((), (), ()),
}
"""For each template what stands in it once, what may stand in it, and in which order."""


class Look(BaseModel):
    """How one part of the model gets its images, where its configuration does not say it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    size: int | tuple[int, int] | None = Field(None, description="Pixels, or height and width.")
    mean: Colours | None = Field(None, description="Mean of each colour, 0 to 1.")
    std: Colours | None = Field(None, description="Deviation of each colour, 0 to 1.")


class PseudoGumbel(Objective):
    """Learn masks of regions that the model has to describe to itself.

    A teacher, an average of the model, describes a region. The student reads the description with
    some tokens replaced, says it again, and what it says is turned into embeddings by a
    straight-through Gumbel-softmax. From these and the image, [SEG] prompts the mask decoder.
    """

    name: ClassVar[str] = "pseudo-gumbel"
    better: ClassVar[Mapping[str, str]] = {
        "loss": "min", "dice": "max", "iou": "max", "bce": "min", "dice_of_ceiling": "min",
        "agreement": "max", "distinct": "max", "surprise": "min",
    }  # fmt: skip

    ask: str = Field(
        "{image}\n{region}\nDescribe the marked region.\n",
        description="What the caption answers; {image} and {region} stand for their places.",
    )
    point: str = Field(
        "{image}\nSegment: {caption}\n",
        description="How the mask is asked for; {caption} stands for the caption.",
    )
    answer: str = Field("It is [SEG].", description="What the model says then, with [SEG] once.")
    seg: str = Field("[SEG]", description="The token that stands for a mask.")
    seg_state: Literal["token", "before"] = Field(
        "token", description="Take the state of the token, or that from which it is foretold."
    )
    tokens: int = Field(64, ge=1, description="Tokens of a caption, at most.")
    replace: float = Field(0.25, ge=0, lt=1, description="Share of tokens that are replaced.")
    k: int = Field(128, ge=2, description="Tokens that the soft choice is among.")
    tau: float = Field(0.7, gt=0, description="Temperature of the soft choice.")
    decay: float = Field(0.999, gt=0, lt=1, description="Share of the old teacher in each step.")
    bce: float = Field(2.0, ge=0, description="Weight of the binary cross entropy.")
    dice: float = Field(0.5, ge=0, description="Weight of the Dice loss, which is its ceiling.")
    anchor: float = Field(
        0.1, ge=0, description="Weight of the cross entropy of the answer, which keeps it alive."
    )
    least_cells: int = Field(
        0, ge=0, description="Samples whose region has fewer cells fail; 0 lets them have none."
    )
    fit: Literal["squash", "pad"] = Field(
        "squash", description="Resize both sides, or the longest one and pad right and below."
    )
    next: bool = Field(
        False, description="Learn `next_mask` in `next_image`, such as a later frame of a video."
    )
    vlm: Look = Field(Look(), description="Images of the vision-language model.")
    sam: Look = Field(Look(), description="Images of SAM 2.")

    _teacher: Teacher | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _can_be_filled(self) -> PseudoGumbel:
        """Each place stands where it can be filled, as often and in the order that it can be."""
        for name, (once, at_most_once, order) in _PLACES.items():
            text = getattr(self, name)
            for place in _EVERY:
                count, most = text.count(place), int(place in (*once, *at_most_once))
                if count > most or (count < most and place in once):
                    raise ValueError(
                        f"expected {place} {_TIMES[most]} in {name}, got it {count} times"
                    )
            found = [text.find(place) for place in order if place in text]
            if found != sorted(found):
                raise ValueError(f"expected {' before '.join(order)} in {name}")
        if self.answer.count(self.seg) != 1:
            raise ValueError(f"expected {self.seg} once in answer")
        if self.bce + self.dice == 0:
            raise ValueError("expected a weight above 0 for bce or dice")
        return self

    def refuse(self, patient: Patient) -> str | None:
        """Refuse another model, another tokenizer, and captions that pass no gradient on."""
        from surgery_plugins.objectives.pseudo_gumbel.suitable import unsuitable

        return unsuitable(self, patient)

    def teachers(self, model: nn.Module) -> Iterable[nn.Module]:
        """Make the teacher: the student as it is now."""
        from surgery_plugins.objectives.pseudo_gumbel.teacher import Teacher

        self._teacher = Teacher(model, self.decay)
        return (self._teacher,)

    def encode(self, sample: Sample, patient: Patient, random: Random) -> Mapping[str, Any]:
        """Prepare images, mask, the cells of the region and texts; all counts are checked here.

        Args:
            sample: ``image`` of ``(height, width, 3)`` bytes and ``mask`` of ``(height, width)``;
                with ``next`` also ``next_image`` and ``next_mask``.
            patient: tokenizer, processor and configuration.
            random: not used.

        Raises:
            ValueError: image and mask do not fit, or a count of tokens or places is wrong.
        """
        from surgery_plugins.objectives.pseudo_gumbel.encode import encoded

        return encoded(self, sample, patient)

    def collate(self, encoded: Sequence[Mapping[str, Any]], patient: Patient) -> Batch:
        """Stack images and masks; texts stay lists, since their lengths differ."""
        from surgery_plugins.objectives.pseudo_gumbel.encode import collated

        return collated(self, encoded, patient)

    def weight(self, batch: Batch) -> float:
        """Count images."""
        return float(len(batch["pixel_values"]))

    def step(self, model: nn.Module, batch: Batch) -> Step:
        """Give the mean loss of the images, and sums of metrics."""
        from surgery_plugins.objectives.pseudo_gumbel.run import run

        if self._teacher is None:
            self.teachers(model)
        assert self._teacher is not None
        return run(self, model, self._teacher, batch)

    def after_step(self, model: nn.Module, number: int) -> None:
        """Move the teacher."""
        if self._teacher is not None:
            self._teacher.move(model, number)

    def state(self) -> Mapping[str, Tensor]:
        """Give the teacher's values."""
        return {} if self._teacher is None else self._teacher.kept()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the teacher of another run."""
        if self._teacher is not None:
            self._teacher.take(state)
