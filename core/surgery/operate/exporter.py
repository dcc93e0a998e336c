"""The contract of an exporter: what writes a result in another tool's format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import nn


class Exporter(ABC):
    """Write what was done to a patient in a format that another tool reads.

    Attributes:
        name: what a recipe writes under ``output.also``; the folder that is written.
    """

    name: ClassVar[str]

    @abstractmethod
    def export(self, model: nn.Module, base: dict[str, Any], folder: Path) -> None:
        """Write the files.

        Args:
            model: the model, operated on, its tensors filled.
            base: where the patient came from, as the journal says.
            folder: an empty folder.

        Raises:
            RefusedError: the format cannot say what was done.
        """
