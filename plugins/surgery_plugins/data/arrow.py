"""The data sets ``parquet`` and ``arrow``: rows of tables in columns, read by pyarrow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from pydantic import Field

from surgery.errors import MissingExtraError, PatientError
from surgery.operate.data import Data, Samples
from surgery_plugins.data.files import files_of

_Columns: TypeAlias = "Sequence[str] | None"
_Read: TypeAlias = "Callable[[Path, _Columns], Any]"


class _Table(Data):
    path: str | list[str] = Field(description="One or several files, or globs.")
    columns: list[str] | None = Field(
        None, min_length=1, description="Names of the columns to read; by default all."
    )

    def _open(self, read: _Read) -> Samples:
        where = f"train.data: {self.name}"
        found = Rows(files_of(self.path, where), self.columns, read, where)
        len(found)
        return found


class Parquet(_Table):
    """Read rows of Parquet files; the chosen columns are held in memory."""

    name: ClassVar[str] = "parquet"

    def open(self) -> Samples:
        """Read the table.

        Raises:
            MissingExtraError: pyarrow is not installed.
        """
        return self._open(_parquet)


class Arrow(_Table):
    """Read rows of Arrow files, such as ``save_to_disk`` of datasets writes; none is in memory."""

    name: ClassVar[str] = "arrow"

    def open(self) -> Samples:
        """Map the files into memory.

        Raises:
            MissingExtraError: pyarrow is not installed.
        """
        return self._open(_arrow)


@dataclass
class Rows:
    """Rows of a table; copies of it open the files again.

    Attributes:
        files: the files, of one schema.
        columns: names of the columns to read, or None for all.
        read: gives the columns of one file as a table.
        where: how errors name the data set.
    """

    files: tuple[Path, ...]
    columns: _Columns
    read: _Read
    where: str
    _table: Any = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        """Give the number of rows."""
        return int(self._held().num_rows)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        """Give one row by names of columns."""
        if not 0 <= number < len(self):
            raise IndexError(f"expected a row below {len(self)}, got {number}")
        rows: list[dict[str, Any]] = self._held().slice(number, 1).to_pylist()
        return rows[0]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the table out of copies for data workers."""
        return {**self.__dict__, "_table": None}

    def _held(self) -> Any:
        if self._table is None:
            self._table = self._joined()
        return self._table

    def _joined(self) -> Any:
        try:
            import pyarrow
        except ModuleNotFoundError:
            raise MissingExtraError(self.where, "pyarrow", "data") from None
        tables = [self._chosen(file) for file in self.files]
        try:
            return pyarrow.concat_tables(tables)
        except pyarrow.ArrowInvalid:
            found = "others in " + ", ".join(file.name for file in self.files[:3])
            raise PatientError(self.where, "files with the same columns", found) from None

    def _chosen(self, file: Path) -> Any:
        """Give the chosen columns of one file."""
        import pyarrow

        try:
            return self.read(file, self.columns)
        except LookupError as error:
            where, names = f"{self.where}: columns", ", ".join(map(str, error.args[1:]))
            raise PatientError(where, f"of {names}", str(error.args[0]), f"see {file}") from None
        except (pyarrow.ArrowException, OSError) as error:
            line = " ".join(str(error).split())[:200]
            raise PatientError(str(file), f"a {self.where.split()[-1]} file", line) from None


def _parquet(file: Path, columns: _Columns) -> Any:
    from pyarrow import parquet

    found = parquet.ParquetFile(file)
    return found.read(columns=_known(columns, found.schema_arrow.names))


def _arrow(file: Path, columns: _Columns) -> Any:
    """Map one file; it is in the form of files, or of streams."""
    import pyarrow
    from pyarrow import ipc

    mapped = pyarrow.memory_map(str(file))
    is_file = mapped.read(6) == b"ARROW1"
    mapped.seek(0)
    found = (ipc.open_file if is_file else ipc.open_stream)(mapped).read_all()
    return found.select(_known(columns, found.schema.names))


def _known(columns: _Columns, names: Sequence[str]) -> list[str]:
    """Give the columns to read, all by default.

    Raises:
        LookupError: a name that is no column, and the columns.
    """
    missing = [name for name in columns or () if name not in names]
    if missing:
        raise LookupError(missing[0], *names)
    return list(columns or names)
