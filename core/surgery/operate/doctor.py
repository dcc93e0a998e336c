"""The contract of a doctor: what examines a patient and changes nothing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from surgery.checks.check import Check
    from surgery.operate.patient import Patient


class Doctor(BaseModel):
    """Describe one examination; its fields are the options of ``surgery doctor NAME``.

    A field is a text, a number, a flag (``bool``), or several texts (``tuple[str, ...]``); each
    has a default and a description.

    Attributes:
        name: what follows ``surgery doctor``; the class's docstring is its help.
        cure: what to do where it finds a mistake.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: ClassVar[str]
    cure: ClassVar[str] = "mend what it names"

    def applies(self, patient: Patient) -> bool:
        """Tell whether to examine a patient before every training, with the options' defaults."""
        return False

    @abstractmethod
    def examine(self, patient: Patient, folder: Path | None) -> Iterable[Check]:
        """Examine a patient and give the checks, in the order in which people read them.

        Args:
            patient: its model may be on meta.
            folder: where it was read from, if from a folder.

        Raises:
            SurgeryError: it cannot be examined at all.
        """
