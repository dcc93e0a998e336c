"""The contract of a data set: sized, and any sample at any time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field


class Samples(Protocol):
    """Samples by number; the same number always gives the same sample."""

    def __len__(self) -> int:
        """Give the number of samples."""

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        """Give one sample.

        Raises:
            Exception: it cannot be read; it is counted as failed.
        """


class Data(BaseModel):
    """Describe samples; its fields are an entry of ``train.data``.

    Attributes:
        name: what a recipe writes under ``use``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]

    weight: float = Field(
        1.0, gt=0, description="How often each sample comes, where several data sets are mixed."
    )

    @abstractmethod
    def open(self) -> Samples:
        """Open the samples; they must be picklable, since data workers get copies.

        Raises:
            PatientError: files are missing or damaged.
        """
