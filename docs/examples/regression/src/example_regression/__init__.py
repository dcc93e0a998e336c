"""The objective ``example/regression`` and the data ``example/squares``: numbers in images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from surgery import Patient, hookimpl
from surgery.operate.data import Data, Samples
from surgery.operate.objective import Batch, Objective, Sample, Step

if TYPE_CHECKING:
    from random import Random

    from torch import nn


class Regression(Objective):
    """Let an image model with one output predict a number: the mean squared error."""

    name: ClassVar[str] = "example/regression"
    better: ClassVar[Mapping[str, str]] = {"loss": "min", "error": "min"}

    target: str = Field("target", description="Key of the number in a sample.")

    def refuse(self, patient: Patient) -> str | None:
        """Refuse a patient with another number of outputs than one."""
        outputs = getattr(patient.config, "num_labels", None)
        hint = "give it one with `use: head, with: {labels: 1}`"
        return None if outputs == 1 else f"it has {outputs} outputs; {hint}"

    def encode(self, sample: Sample, patient: Patient, random: Random) -> Mapping[str, Any]:
        """Give the image and the number as tensors, ``(3, side, side)`` and ``()``."""
        import torch

        return {"pixels": sample["pixels"], "target": torch.tensor(float(sample[self.target]))}

    def collate(self, encoded: Sequence[Mapping[str, Any]], patient: Patient) -> Batch:
        """Stack images ``(batch, 3, side, side)`` and numbers ``(batch,)``."""
        import torch

        return {key: torch.stack([one[key] for one in encoded]) for key in ("pixels", "target")}

    def weight(self, batch: Batch) -> float:
        """Count samples."""
        return float(len(batch["target"]))

    def step(self, model: nn.Module, batch: Batch) -> Step:
        """Give the mean squared error, and the absolute error as a metric."""
        found = model(pixel_values=batch["pixels"]).logits.squeeze(-1).float()
        off = found - batch["target"]
        error = off.detach().abs().sum()
        return Step(off.square().mean(), {"error": (error, len(off))}, (0.0, None))


@dataclass(frozen=True)
class Drawn:
    """Images by number: a bright square in the dark, whose side is the target."""

    count: int
    side: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        import torch

        if not 0 <= number < self.count:
            raise IndexError(number)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        side = int(torch.randint(1, self.side + 1, (), generator=generator))
        pixels = torch.zeros(3, self.side, self.side)
        pixels[:, :side, :side] = 1.0
        return {"pixels": pixels, "target": side / self.side}


class Squares(Data):
    """Draw images of squares; the target is a square's side as a share of the image's."""

    name: ClassVar[str] = "example/squares"

    count: int = Field(256, gt=0, description="Number of samples.")
    side: int = Field(8, gt=0, description="Height and width of an image in pixels.")
    seed: int = Field(0, ge=0, description="What they are drawn with.")

    def open(self) -> Samples:
        """Give the samples."""
        return Drawn(self.count, self.side, self.seed)


@hookimpl
def surgery_objectives() -> Sequence[type[Objective]]:
    """Offer the objective."""
    return [Regression]


@hookimpl
def surgery_data() -> Sequence[type[Data]]:
    """Offer the data."""
    return [Squares]
