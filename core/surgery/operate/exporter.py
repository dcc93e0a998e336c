"""The contract of an exporter: what writes a result in another tool's format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from surgery.operate.journal import Journal
    from surgery.operate.operation import Operation


class Exporter(ABC):
    """Write what was done to a patient in a format that another tool reads.

    Attributes:
        name: what a recipe writes under ``output.also``; the folder that is written.
    """

    name: ClassVar[str]

    @abstractmethod
    def export(self, operation: Operation, journal: Journal, folder: Path) -> None:
        """Write the files.

        Args:
            operation: what was done, its tensors filled.
            journal: the record: where the patient came from, and what was trained since.
            folder: an empty folder.

        Raises:
            RefusedError: the format cannot say what was done.
        """
