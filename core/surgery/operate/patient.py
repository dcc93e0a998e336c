"""What is operated on: the model and what belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Patient:
    """Hold a model and, where there are any, its one tokenizer or processor and its config.

    Attributes:
        model: the model, on meta while planning.
        config: its configuration object, or None.
        tokenizer: its one tokenizer, or None.
        processor: its processor, which holds the same tokenizer, or None.
        inputs: keyword arguments for one forward, or None where the walker has to guess.
        notes: what its reader should know, such as a part that could not be built.
    """

    model: nn.Module
    config: Any = None
    tokenizer: Any = None
    processor: Any = None
    inputs: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
