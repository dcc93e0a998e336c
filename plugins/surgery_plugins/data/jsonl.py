"""The data set ``jsonl``: one JSON object in each line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from surgery.operate.data import Data, Samples
from surgery_plugins.data.files import files_of, lines_of, records, stretches, text_of


class Jsonl(Data):
    """Read lines of JSON; only their places are held in memory."""

    name: ClassVar[str] = "jsonl"

    path: str | list[str] = Field(description="One or several files, or globs.")

    def open(self) -> Samples:
        """Find where the lines begin."""
        files = files_of(self.path, "train.data: jsonl")
        return records((stretches(file, lines_of), object_of) for file in files)


def object_of(data: bytes) -> Mapping[str, Any]:
    """Read one JSON object.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(text_of(data), parse_constant=_not_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON, got {error.msg} at column {error.colno}") from None
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {type(found).__name__}")
    return found


def _not_finite(text: str) -> None:
    """Refuse what JSON itself has not, though Python writes it."""
    raise ValueError(f"expected a number that is finite, got {text}")
