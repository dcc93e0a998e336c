"""The contract of an objective: what turns samples into a loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from random import Random

    from torch import Tensor, nn

    from surgery.operate.patient import Patient

Sample: TypeAlias = "Mapping[str, Any]"
"""One sample of a data set, as its files say it: texts, numbers, images, masks."""

Batch: TypeAlias = "dict[str, Any]"
"""What one forward gets: tensors by name; nested lists and mappings are moved too."""


@dataclass
class Step:
    """What one forward gave.

    Attributes:
        loss: mean over what the batch counts, a scalar that has a gradient.
        metrics: sums by name with the count that each is divided by, such as
            ``{"accuracy": (right, samples)}``; they are added over batches and processes.
        bounds: least and greatest value that the loss can have, where it has any; a loss that
            sits at a bound has stopped to teach.
    """

    loss: Tensor
    metrics: Mapping[str, tuple[Tensor | float, Tensor | float]] = field(default_factory=dict)
    bounds: tuple[float | None, float | None] = (None, None)


class Objective(BaseModel):
    """Turn samples into batches and batches into a loss; its fields are ``train.objective``.

    Attributes:
        name: what a recipe writes under ``train.objective.use``.
        better: for each metric whether ``max`` or ``min`` is better; the loss is ``min``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]
    better: ClassVar[Mapping[str, str]] = {"loss": "min"}

    def refuse(self, patient: Patient) -> str | None:
        """Say why this patient cannot be trained so, from its structure alone; None if it can."""
        return None

    def teachers(self, model: nn.Module) -> Iterable[nn.Module]:
        """Give modules outside the model that take part and are never trained; none by default.

        Called once before the first step, after the strategy was applied.
        """
        return ()

    @abstractmethod
    def encode(self, sample: Sample, patient: Patient, random: Random) -> Mapping[str, Any]:
        """Turn one sample into tensors, in a data worker.

        Args:
            sample: what the data set gave.
            patient: tokenizer, processor and config; its model is not to be run here.
            random: seeded by seed, epoch and the sample's number; the only randomness allowed.

        Raises:
            ValueError: the sample cannot be used; it is counted as failed.
        """

    @abstractmethod
    def collate(self, encoded: Sequence[Mapping[str, Any]], patient: Patient) -> Batch:
        """Make a batch of encoded samples.

        Args:
            encoded: what ``encode`` gave, at least one.
            patient: tokenizer, processor and config.
        """

    @abstractmethod
    def weight(self, batch: Batch) -> float:
        """Count what the loss is a mean over, such as labelled tokens; known before the forward.

        Gradients of micro-batches and of processes are added in proportion to it, so that the
        result does not depend on how a batch is split.
        """

    @abstractmethod
    def step(self, model: nn.Module, batch: Batch) -> Step:
        """Run the model and give the loss.

        Called inside the wrapped module's forward, so that whatever part of the model is called,
        a distributed strategy sees it.

        Args:
            model: the patient's model.
            batch: what ``collate`` gave, on the model's device.
        """

    def after_step(self, model: nn.Module, number: int) -> None:
        """Do what follows an optimizer step, such as moving a teacher; nothing by default."""

    def state(self) -> Mapping[str, Tensor]:
        """Give what a training must go on with beside the model, such as a teacher; by name."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take what ``state`` gave in another run, after ``teachers``; nothing by default."""
