"""Find the files of a data set, and read stretches of them that lie anywhere."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO

from surgery.errors import PatientError, SurgeryError

BOM = b"\xef\xbb\xbf"
"""What some programs write before the first character of a text in UTF-8."""


def files_of(path: str | Sequence[str], where: str) -> tuple[Path, ...]:
    """Give the files that paths or globs name, those of a glob by name.

    Args:
        path: one or several paths; ``~`` is the home.
        where: how errors name the data set.

    Raises:
        PatientError: one of them names no file.
    """
    found: list[Path] = []
    for one in [path] if isinstance(path, str) else path:
        text = str(Path(one).expanduser())
        files = [Path(text)] if Path(text).is_file() else map(Path, sorted(glob(text)))
        named = [file for file in files if file.is_file()]
        if not named:
            raise PatientError(f"{where}: path", "a file", f"no file {one}")
        found += named
    return tuple(found)


@dataclass(frozen=True)
class Stretches:
    """Records that are stretches of one file, of which only the places are in memory.

    Attributes:
        file: the file.
        starts: byte at which each record begins, and after the last one where it ends.
        lines: number of the first line of each record, counted from 1.
    """

    file: Path
    starts: array[int]
    lines: array[int]

    def __len__(self) -> int:
        """Give the number of records."""
        return len(self.lines)

    def read(self, number: int) -> bytes:
        """Read the bytes of one record; the file is opened anew, since workers share no place."""
        with open(self.file, "rb") as stream:
            stream.seek(self.starts[number])
            return stream.read(self.starts[number + 1] - self.starts[number])


Parse = Callable[[bytes], Mapping[str, Any]]
"""Makes a sample of the bytes of a record; raises ValueError where they are none."""


@dataclass(frozen=True)
class Records:
    """The records of several files as samples; the samples of a data set.

    Attributes:
        parts: the records of each file.
        parse: for each file, makes a sample of a record.
        ends: for each file, how many records there are up to its end.
    """

    parts: tuple[Stretches, ...]
    parse: tuple[Parse, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        """Give the number of samples."""
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        """Give one sample.

        Raises:
            ValueError: the record is damaged; the message names file and line.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"expected a sample below {len(self)}, got {number}")
        place = bisect_right(self.ends, number)
        part = self.parts[place]
        within = number - (self.ends[place - 1] if place else 0)
        try:
            return self.parse[place](part.read(within))
        except ValueError as error:
            raise ValueError(f"{part.file}:{part.lines[within]}: {error}") from None


def records(parts: Iterable[tuple[Stretches, Parse]]) -> Records:
    """Join the records of several files."""
    pairs = list(parts)
    ends: list[int] = []
    for part, _ in pairs:
        ends.append((ends[-1] if ends else 0) + len(part))
    return Records(tuple(p for p, _ in pairs), tuple(q for _, q in pairs), tuple(ends))


def stretches(file: Path, split: Callable[[BinaryIO], Iterator[tuple[int, int, int]]]) -> Stretches:
    """Find the records of one file.

    Args:
        file: the file.
        split: gives first line, start and end of each record; a record ends where the next one
            begins, or blank space lies between.

    Raises:
        PatientError: the file cannot be read.
    """
    starts, lines, end = array("Q"), array("Q"), 0
    try:
        with open(file, "rb") as stream:
            for line, start, stop in split(stream):
                starts.append(start)
                lines.append(line)
                end = stop
    except SurgeryError:
        raise
    except OSError as error:
        raise PatientError(str(file), "a file that can be read", str(error.strerror)) from None
    starts.append(end)
    return Stretches(file, starts, lines)


def lines_of(stream: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Split a stream at line ends; blank lines are no records."""
    place = 0
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield number, place, place + len(line)
        place += len(line)


def text_of(data: bytes) -> str:
    """Read UTF-8, without the mark that may stand before it.

    Raises:
        ValueError: it is no UTF-8.
    """
    try:
        return data.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8, got byte {data[error.start]:#04x}") from None
