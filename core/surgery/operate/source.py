"""The contract of a source: what builds a patient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from surgery.errors import RefusedError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.checkpoint.reading import File
    from surgery.operate.patient import Patient


@dataclass(frozen=True)
class Naming:
    """How the files of a base name the tensors of a model.

    Attributes:
        names: for each tensor of the model, by one of its names, its names in the files.
        converted: for each tensor whose stored form is another one, what is done to read it.
        parts: for each stored name that is a part of such a tensor, the names of what it makes.
    """

    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    converted: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Source(BaseModel):
    """Describe where a patient comes from; its fields are the recipe's ``patient:``.

    Attributes:
        name: what a recipe writes under ``patient.source``.
        explicit: True where a folder is read by this source only when somebody says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]
    explicit: ClassVar[bool] = False

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
    def weights(self) -> Mapping[str, File]:
        """Give the safetensors files of the base, by file name; empty where there are none.

        Files behind URLs are given as they were looked up; what is needed of them is read.
        """

    @abstractmethod
    def companions(self) -> Mapping[str, Path]:
        """Give the files that travel with a checkpoint unchanged, by file name."""

    def outline(self) -> Mapping[str, str]:
        """Give files from which the structure is built where other weights lie.

        Returns:
            Their texts by file name; empty where the companions are enough.
        """
        return {}

    def naming(self, model: nn.Module, stored: Iterable[str]) -> Naming:
        """Say how the base's files name the tensors of a model; by default as the model does.

        Args:
            model: the structure that ``build`` or ``load`` gave, not operated on.
            stored: the names in the files.
        """
        return Naming({name: (name,) for name in stored})

    def store_as(
        self, model: nn.Module, naming: Naming, tensors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Give tensors of a model the names and forms in which the source's files hold them.

        Args:
            model: the model, operated on.
            naming: what ``naming`` gave before the operation.
            tensors: by name in the model; on meta, or with values.

        Raises:
            RefusedError: the source writes no files.
        """
        return dict(tensors)

    def card(self) -> Mapping[str, str]:
        """Give what a model card says of the base, in the words of the Hub; nothing by default.

        Returns:
            ``base_model``, the id of the base on the Hub, where it has one, and
            ``library_name``, what loads whole models.
        """
        return {}

    def numbers(self) -> Mapping[str, tuple[float, bool]]:
        """Give the numbers that the structure is made with, by name; none by default.

        Returns:
            For each name its value, and whether somebody stated it (or it is a default).
        """
        return {}

    def with_numbers(self, numbers: Mapping[str, float]) -> Source:
        """Give the source of the same structure with other numbers, without weights.

        Args:
            numbers: new values of some of ``numbers``.

        Raises:
            RefusedError: the source has none.
        """
        wanted = "a source whose structure is made with numbers"
        raise RefusedError(f"patient.source: {self.name}", wanted, "another")

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
