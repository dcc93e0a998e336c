"""What a user states of an input of a forward."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stated:
    """An input that is known by its shape.

    Attributes:
        shape: the sizes of its dimensions.
        dtype: such as ``int64``; None for the usual one of an input of that name.
    """

    shape: tuple[int, ...]
    dtype: str | None = None
