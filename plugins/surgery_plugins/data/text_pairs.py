"""The data set ``text-pairs``: two files, of which lines with the same number belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from pydantic import Field

from surgery.errors import PatientError
from surgery.operate.data import Data, Samples
from surgery_plugins.data.files import Stretches, files_of, stretches, text_of

_WHERE = "train.data: text-pairs"


class TextPairs(Data):
    """Read pairs of lines, such as a sentence and its translation."""

    name: ClassVar[str] = "text-pairs"

    first: str = Field(description="File with the first text of each pair.")
    second: str = Field(description="File with the second text of each pair.")

    def open(self) -> Samples:
        """Find where the lines begin."""
        left, right = (_lines(files_of(path, _WHERE)[0]) for path in (self.first, self.second))
        if len(left) != len(right):
            found = f"{len(left)} in {left.file}, {len(right)} in {right.file}"
            raise PatientError(_WHERE, "as many lines in both files", found)
        return Pairs(left, right)


@dataclass(frozen=True)
class Pairs:
    """Lines of two files as samples with ``first`` and ``second``.

    Attributes:
        left: lines of the first file.
        right: lines of the second file.
    """

    left: Stretches
    right: Stretches

    def __len__(self) -> int:
        """Give the number of pairs."""
        return len(self.left)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        """Give one pair.

        Raises:
            ValueError: a line is blank or no UTF-8; the message names file and line.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"expected a pair below {len(self)}, got {number}")
        return {"first": _line(self.left, number), "second": _line(self.right, number)}


def _line(part: Stretches, number: int) -> str:
    try:
        text = text_of(part.read(number)).strip()
        if text:
            return text
        raise ValueError("expected a text, got a blank line")
    except ValueError as error:
        raise ValueError(f"{part.file}:{part.lines[number]}: {error}") from None


def _lines(file: Path) -> Stretches:
    return stretches(file, _all_lines)


def _all_lines(stream: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Split a stream at line ends; a blank line keeps its place, so that pairs stay pairs."""
    place = 0
    for number, line in enumerate(stream, start=1):
        yield number, place, place + len(line)
        place += len(line)
