"""The contract of an importer: what reads another tool's result, to be made here as surgeries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.operate.patient import Patient


@dataclass(frozen=True, slots=True)
class Incoming:
    """One tensor that comes from another tool's file.

    Attributes:
        where: the file and the name there, for errors.
        shape: the shape of what ``read`` gives.
        read: gives the values.
    """

    where: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Imported:
    """What another tool did, said in this one's words.

    Attributes:
        steps: the surgeries, as a recipe writes them.
        tensors: the values, by the names that the tensors have after the surgeries. Every tensor
            that the surgeries add must be among them; tensors of the base may be.
    """

    steps: tuple[Mapping[str, Any], ...]
    tensors: Mapping[str, Incoming]


class Importer(ABC):
    """Read what another tool made of a model.

    Attributes:
        name: what the command line writes after ``surgery import``.
    """

    name: ClassVar[str]

    @abstractmethod
    def read(self, folders: Sequence[Path], patient: Patient) -> Imported:
        """Read the files; the patient is looked at and not changed.

        Args:
            folders: what the other tool wrote; several where it can combine them.
            patient: the base, with its weights.

        Raises:
            PatientError: the files are damaged, or made for another base.
            RefusedError: they say what no surgery can do.
        """
