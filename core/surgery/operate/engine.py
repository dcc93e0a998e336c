"""The contract of an engine: what runs the steps of a training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from surgery.operate.objective import Batch, Step


@dataclass
class Turn:
    """What one optimizer step is made of.

    Attributes:
        number: the step, counted from 0.
        parts: what each forward gets, and the share of the step's loss that it has.
        began: when the step began, in seconds.
        seen: what the last forward gave.
        loss: shares of the loss so far.
        sums: metrics so far, each with the count that it is divided by.
    """

    number: int
    parts: list[tuple[Batch, float]]
    began: float
    seen: Step | None = None
    loss: float = 0.0
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)


class Work(Protocol):
    """A training that is ready to run: samples, objective, guards, records and checkpoints.

    An engine takes the turns in order, and for each of them calls ``forward`` for every part,
    lets gradients of what it gives come together, calls ``before_step``, lets the optimizer
    move, and calls ``after_step``.
    """

    optimizer: Optimizer
    steps: int

    @property
    def module(self) -> nn.Module:
        """The model with its objective, under its strategy; every forward goes through it."""

    @property
    def first(self) -> int:
        """The step to begin with, counted from 0."""

    @property
    def forwards(self) -> int:
        """Forwards of each step at most."""

    def turns(self) -> Iterator[Turn]:
        """Read the samples of one step after another, those that fail counted and left out.

        The first one restores random generators, so nothing may be drawn after it was taken
        but by forwards.

        Raises:
            TrainingError: too many samples failed, or none was left.
        """

    def forward(self, turn: Turn, place: int) -> Tensor:
        """Run one part and give its share of the loss, to be differentiated as it is.

        Raises:
            TrainingError: the loss is detached.
        """

    def before_step(self, turn: Turn) -> None:
        """Check gradients, clip them, and set the learning rates of the step.

        Raises:
            TrainingError: a guard stopped the training.
        """

    def after_step(self, turn: Turn) -> str:
        """Check what moved, record, evaluate and save.

        Returns:
            Why the training ends here, or an empty text.

        Raises:
            TrainingError: a guard stopped the training.
        """


class Engine(BaseModel):
    """Run the steps of a training; its fields are ``train.engine``.

    Attributes:
        name: what a recipe writes under ``train.engine.use``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]

    def refuse(self, train: Any, processes: int) -> str | None:
        """Say why it cannot train so, before anything is loaded; None if it can.

        Args:
            train: the form of ``train:``.
            processes: how many processes take part.
        """
        return None

    @abstractmethod
    def run(self, work: Work) -> str:
        """Train to the last step, or until a step says why it ends.

        Returns:
            ``done``, or what the last step said.

        Raises:
            TrainingError: a guard stopped the training.
            MissingExtraError: what it runs on is not installed.
        """
