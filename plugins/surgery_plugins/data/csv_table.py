"""The data set ``csv``: the rows of a table, with the names of its columns in the first one."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from pydantic import Field

from surgery.errors import PatientError
from surgery.operate.data import Data, Samples
from surgery_plugins.data.files import Parse, Stretches, files_of, records, stretches, text_of

_WHERE = "train.data: csv"
_LONGEST = 1 << 24
"""Characters of one cell, at most."""


class Csv(Data):
    """Read rows of a table; every value is a text. Only the rows' places are held in memory."""

    name: ClassVar[str] = "csv"

    path: str | list[str] = Field(description="One or several files, or globs.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="What parts the cells.")
    columns: list[str] | None = Field(
        None, min_length=1, description="Names of the columns; by default the first row has them."
    )

    def open(self) -> Samples:
        """Find where the rows begin, quoted line ends included."""
        return records(self._read(file) for file in files_of(self.path, _WHERE))

    def _read(self, file: Path) -> tuple[Stretches, Parse]:
        found = stretches(file, _Rows(file, self.delimiter))
        if self.columns is not None:
            return found, Row(tuple(self.columns), self.delimiter)
        if not len(found):
            raise PatientError(str(file), "a first row with names of columns", "no row")
        names = _cells(found.read(0), self.delimiter)
        if len(set(names)) != len(names) or not all(names):
            raise PatientError(str(file), "a name for each column, each once", ", ".join(names))
        rest = Stretches(file, found.starts[1:], found.lines[1:])
        return rest, Row(tuple(names), self.delimiter)


@dataclass(frozen=True)
class Row:
    """Make a sample of a row.

    Attributes:
        names: of the columns.
        delimiter: what parts the cells.
    """

    names: tuple[str, ...]
    delimiter: str

    def __call__(self, data: bytes) -> Mapping[str, Any]:
        """Give the cells by name.

        Raises:
            ValueError: there are more or fewer cells than names.
        """
        cells = _cells(data, self.delimiter)
        if len(cells) != len(self.names):
            raise ValueError(f"expected {len(self.names)} cells, got {len(cells)}")
        return dict(zip(self.names, cells, strict=True))


@dataclass(frozen=True)
class _Rows:
    """Split a stream into rows: the csv module says which lines belong together."""

    file: Path
    delimiter: str

    def __call__(self, stream: BinaryIO) -> Iterator[tuple[int, int, int]]:
        place = line = 0

        def texts() -> Iterator[str]:
            nonlocal place, line
            for data in stream:
                place, line = place + len(data), line + 1
                yield text_of(data)

        reader = _reader(texts(), self.delimiter)
        try:
            start, first = place, line + 1
            for cells in reader:
                if cells:
                    yield first, start, place
                start, first = place, line + 1
        except (csv.Error, ValueError) as error:
            raise PatientError(f"{self.file}:{line}", "a row of a table", str(error)) from None


def _cells(data: bytes, delimiter: str) -> list[str]:
    return next(_reader(StringIO(text_of(data), newline="\n"), delimiter), [])


def _reader(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(_LONGEST)
    return csv.reader(lines, delimiter=delimiter, strict=True)
