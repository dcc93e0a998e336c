"""The contract of a family: what a plugin knows of one kind of model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.patient import Patient


@dataclass(frozen=True, slots=True)
class Violation:
    """A contract that does not hold.

    Attributes:
        contract: the contract's name.
        where: module path or file.
        wanted: the value that would hold.
        found: the value that is there.
        instead: what to do.
    """

    contract: str
    where: str
    wanted: str
    found: str
    instead: str = ""

    def __str__(self) -> str:
        tail = f"; {self.instead}" if self.instead else ""
        return f"{self.contract}: {self.where}: expected {self.wanted}, got {self.found}{tail}"

    def to_json(self) -> dict[str, str]:
        """Give the violation as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


class Family(ABC):
    """Know the roles and contracts of one kind of model.

    Attributes:
        name: the family's name.
        roles: roles that the family adds to the built-in ones.
    """

    name: ClassVar[str]
    roles: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def matches(self, model: nn.Module) -> bool:
        """Tell whether a model is of this family."""

    def hints(self, model: nn.Module) -> Mapping[str, frozenset[str]]:
        """Give roles by module path or parameter name; none by default."""
        return {}

    def contracts(self, patient: Patient) -> Iterable[Violation]:
        """Check the relations between parts that must hold; none by default."""
        return ()
