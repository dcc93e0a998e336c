"""Laws of files of samples: any sample at any time, and every mistake with its place."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from surgery.errors import PatientError
from surgery.operate.data import Data, Samples
from surgery_plugins.data.arrow import Arrow, Parquet
from surgery_plugins.data.csv_table import Csv
from surgery_plugins.data.jsonl import Jsonl
from surgery_plugins.data.text_pairs import TextPairs

ROWS = [{"text": f"text {n}", "label": n} for n in range(7)]
_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=12)
SEVERAL = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def all_of(samples: Samples) -> list[Any]:
    return [samples[number] for number in range(len(samples))]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Data:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    return Jsonl(path=str(path))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Data:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return Csv(path=str(path))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Data:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=3)
    return Parquet(path=str(path))


def write_arrow(path: Path, rows: list[dict[str, Any]], form: str = "file") -> Data:
    import pyarrow

    table = pyarrow.Table.from_pylist(rows)
    new = pyarrow.ipc.new_file if form == "file" else pyarrow.ipc.new_stream
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return Arrow(path=str(path))


def write_stream(path: Path, rows: list[dict[str, Any]]) -> Data:
    return write_arrow(path, rows, "stream")


WRITERS = {
    "jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet, "arrow": write_arrow,
    "stream": write_stream,
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITERS)
def test_any_sample_comes_at_any_time_and_from_a_copy(kind: str, tmp_path: Path) -> None:
    samples = WRITERS[kind](tmp_path / f"a.{kind}", ROWS).open()
    wanted = [{k: str(v) for k, v in one.items()} for one in ROWS] if kind == "csv" else ROWS
    assert all_of(samples) == wanted
    copy = pickle.loads(pickle.dumps(samples))
    assert [copy[n] for n in (6, 0, 3, 3)] == [wanted[n] for n in (6, 0, 3, 3)]
    for number in (7, -1):
        with pytest.raises(IndexError):
            samples[number]


@pytest.mark.parametrize("kind", WRITERS)
def test_several_files_are_one_data_set_in_the_order_of_their_names(
    kind: str, tmp_path: Path
) -> None:
    WRITERS[kind](tmp_path / f"b.{kind}", ROWS[4:])
    one = WRITERS[kind](tmp_path / f"a.{kind}", ROWS[:4])
    glob = type(one)(path=str(tmp_path / f"*.{kind}"))
    assert [int(row["label"]) for row in all_of(glob.open())] == list(range(7))
    listed = type(one)(path=[str(tmp_path / f"b.{kind}"), str(tmp_path / f"a.{kind}")])
    assert [int(row["label"]) for row in all_of(listed.open())] == [4, 5, 6, 0, 1, 2, 3]


@pytest.mark.parametrize("kind", [Jsonl, Csv, Parquet, Arrow])
def test_a_file_that_is_not_there_is_an_error_at_once(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(PatientError, match="no file"):
        kind(path=str(tmp_path / "gone")).open()
    with pytest.raises(ValidationError):
        kind(path="a", strange=1)


@SEVERAL
@given(st.lists(st.fixed_dictionaries({"a": _TEXTS, "b": _TEXTS}), min_size=1, max_size=8))
def test_whatever_the_csv_module_writes_is_read(tmp_path: Path, rows: Any) -> None:
    assert all_of(write_csv(tmp_path / "x.csv", rows).open()) == rows


@SEVERAL
@given(st.lists(st.dictionaries(_TEXTS, _TEXTS | st.integers() | st.lists(_TEXTS)), max_size=8))
def test_whatever_json_writes_is_read(tmp_path: Path, rows: Any) -> None:
    assert all_of(write_jsonl(tmp_path / "x.jsonl", rows).open()) == rows


def test_blank_lines_a_mark_and_a_missing_line_end_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}')
    assert all_of(Jsonl(path=str(tmp_path / "x.jsonl")).open()) == [{"a": 1}, {"a": 2}]
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4")
    found = all_of(Csv(path=str(tmp_path / "x.csv")).open())
    assert found == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1,}', ":3: expected JSON, got "),
        (b"[1]", ":3: expected a JSON object, got list"),
        (b'{"a": "\xff"}', ":3: expected UTF-8, got byte 0xff"),
        (b'{"a": NaN}', ":3: expected a number that is finite, got NaN"),
    ],
)
def test_a_damaged_line_is_that_samples_error(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')
    samples = Jsonl(path=str(tmp_path / "x.jsonl")).open()
    assert len(samples) == 3
    assert samples[2] == {"a": 2}
    with pytest.raises(ValueError, match=message):
        samples[1]


def test_a_row_with_more_or_fewer_cells_is_that_samples_error(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('a,b\n"1\n1",2\n1\n1,2,3\n')
    samples = Csv(path=str(tmp_path / "x.csv")).open()
    assert samples[0] == {"a": "1\n1", "b": "2"}
    for number, message in ((1, ":4: expected 2 cells, got 1"), (2, ":5: expected 2 cells, got 3")):
        with pytest.raises(ValueError, match=message):
            samples[number]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a first row with names of columns"),
        ("a,a\n1,2\n", "a name for each column, each once"),
        ('a,b\n"1,2\n', "a row of a table"),
        ('a,b\n"1"x,2\n', "a row of a table"),
    ],
)
def test_a_table_that_cannot_be_split_is_an_error_at_once(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(PatientError, match=message):
        Csv(path=str(tmp_path / "x.csv")).open()


def test_a_table_may_have_no_names_and_other_delimiters(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("1\t2\n3\t4\n")
    found = Csv(path=str(tmp_path / "x.tsv"), delimiter="\t", columns=["a", "b"]).open()
    assert all_of(found) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_of_tables_in_columns_just_those_that_are_asked_for_are_read(
    kind: str, tmp_path: Path
) -> None:
    data = type(WRITERS[kind](tmp_path / "x", ROWS))
    assert data(path=str(tmp_path / "x"), columns=["label"]).open()[2] == {"label": 2}
    with pytest.raises(PatientError, match="of text, label, got lable"):
        data(path=str(tmp_path / "x"), columns=["lable"]).open()
    (tmp_path / "y").write_bytes(b"no table")
    with pytest.raises(PatientError, match=f"a {data.name} file"):
        data(path=str(tmp_path / "y")).open()
    WRITERS[kind](tmp_path / "z", [{"other": 1}])
    with pytest.raises(PatientError, match="the same columns"):
        data(path=[str(tmp_path / "x"), str(tmp_path / "z")]).open()


def test_chats_come_out_of_parquet_as_they_went_in(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    samples = write_parquet(tmp_path / "x.parquet", [{"chat": chat}] * 2).open()
    assert samples[1] == {"chat": chat}


def test_lines_with_the_same_number_are_a_pair(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("a cat\n\na dog\n")
    (tmp_path / "de").write_text("eine Katze\nleer\nein Hund\n", "utf-8")
    data = TextPairs(first=str(tmp_path / "en"), second=str(tmp_path / "de"))
    samples = pickle.loads(pickle.dumps(data.open()))
    assert len(samples) == 3
    assert samples[2] == {"first": "a dog", "second": "ein Hund"}
    with pytest.raises(ValueError, match="en:2: expected a text, got a blank line"):
        samples[1]
    (tmp_path / "de").write_text("eine Katze\n")
    with pytest.raises(PatientError, match=r"3 in .*en, 1 in .*de"):
        data.open()
