"""The contract of a source: what builds a patient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from surgery.errors import RefusedError

if TYPE_CHECKING:
    from surgery.operate.patient import Patient


class Source(BaseModel):
    """Describe where a patient comes from; its fields are the recipe's ``patient:``.

    Attributes:
        name: what a recipe writes under ``patient.source``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]

    @abstractmethod
    def build(self) -> Patient:
        """Build the structure on the meta device, tokenizer and config for real.

        Raises:
            PatientError: the base is missing or cannot be read.
        """

    @abstractmethod
    def load(self) -> Patient:
        """Build the patient with its weights in memory, in eval mode.

        Raises:
            PatientError: the base is missing, damaged or would run code.
        """

    @abstractmethod
    def weights(self) -> Mapping[str, Path]:
        """Give the safetensors files of the base, by file name; empty where there are none."""

    @abstractmethod
    def companions(self) -> Mapping[str, Path]:
        """Give the files that travel with a checkpoint unchanged, by file name."""

    def save(self, patient: Patient, folder: Path) -> None:
        """Write all weights of a patient in the source's own format.

        Raises:
            RefusedError: the source cannot.
        """
        raise RefusedError(
            f"patient.source: {self.name}",
            "a source that can write all weights",
            "one that cannot",
            "write `output.save: changed`",
        )

    def moved(self, path: str) -> Source:
        """Give the source of the same patient where it lies in a folder of its own.

        Raises:
            RefusedError: the source does not read folders.
        """
        if "path" not in type(self).model_fields:
            raise RefusedError(
                f"patient.source: {self.name}", "a source that reads a folder", "another"
            )
        return self.model_copy(update={"path": path})
