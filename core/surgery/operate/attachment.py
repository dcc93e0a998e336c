"""The contract of an attachment: a module that is placed beside a model and fed by it."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import nn


class Attachment(BaseModel):
    """Describe a module that can stand beside a model; its fields are its options in a recipe.

    Attributes:
        name: what a recipe writes under ``use:``. Third parties write ``vendor/name``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]

    @property
    def axis(self) -> int:
        """The axis of what feeds the module that holds its features; the last by default."""
        return -1

    @abstractmethod
    def build(self, features: int) -> nn.Module:
        """Build the module, its tensors with the values that they begin with.

        It is built on the meta device too. What it draws comes from torch's own generator, which
        is seeded before. Its ``forward`` takes the one tensor that feeds it.

        Args:
            features: size of ``axis``.
        """
