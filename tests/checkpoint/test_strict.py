"""Laws of strict reading: whatever a file holds, a reader raises SurgeryErrors and nothing else."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from surgery.checkpoint.digests import digest_files
from surgery.checkpoint.header import read_header
from surgery.checkpoint.index import INDEX, file_inside, open_checkpoint
from surgery.checkpoint.manifest import MANIFEST, check_manifest, read_manifest, write_manifest
from surgery.checkpoint.pickles import read_pickle
from surgery.checkpoint.strict import parse_json, read_json, read_text, readable
from surgery.checkpoint.tensors import TensorReader
from surgery.errors import IntegrityError, SurgeryError

many = settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
GOOD = save(
    {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor([True, False]),
        "c": torch.ones(3, dtype=torch.bfloat16),
    },
    {"format": "pt"},
)
LIMIT = 2_000_000
"""Bytes of Python's memory that reading a file of a few hundred bytes may take."""


@st.composite
def damaged(draw: Any, content: bytes = GOOD) -> bytes:
    """Change, cut, repeat and insert bytes of a sound file."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["set", "cut", "insert", "drop", "copy", "word"]))
        if how == "set" and data:
            data[place] = draw(st.integers(0, 255))
        elif how == "cut":
            del data[place:]
        elif how == "insert":
            data[place:place] = draw(st.binary(max_size=8))
        elif how == "drop":
            del data[place : place + draw(st.integers(1, 9))]
        elif how == "copy":
            data[place:place] = data[place : place + draw(st.integers(1, 60))]
        else:
            words = [b"9" * 30, b"-1", b"null", b"[]", b"{}", b'""', b"1e9", b"NaN", b"\\ud800"]
            data[place : place + 1] = draw(st.sampled_from(words))
    return bytes(data)


@st.composite
def headers(draw: Any) -> bytes:
    """Write headers that claim anything."""
    numbers = st.integers(-1, 9) | st.sampled_from([2**31, 2**62, 2**63 - 1, 2**63, 10**40])
    value = st.none() | numbers | st.text(max_size=3) | st.lists(numbers, max_size=4)
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "U8", "BOOL", "F8_E4M3", "C64"]) | value,
            "shape": st.lists(numbers, max_size=5) | value,
            "data_offsets": st.lists(numbers, min_size=2, max_size=2) | value,
        }
    )
    fields = st.dictionaries(
        st.text(max_size=4) | st.just("__metadata__"), entry | value, max_size=3
    )
    text = json.dumps(draw(fields)).encode()
    length = draw(st.sampled_from([len(text), 2**20, 2**40, 2**63, 0]) | st.integers(0, 300))
    return length.to_bytes(8, "little") + text + draw(st.binary(max_size=30))


def errors_of(act: Callable[[], object]) -> str:
    """Run something; only errors for users may come, and Python's memory stays small."""
    tracemalloc.start()
    try:
        act()
        return ""
    except SurgeryError as error:
        return str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < LIMIT


def read_all(path: Path) -> None:
    """Read every tensor of a file in every way; no more is allocated than the file holds."""
    made: list[int] = []
    empty, size = torch.empty, path.stat().st_size

    def watched(*shape: Any, **options: Any) -> Any:
        tensor = empty(*shape, **options, device="meta")
        made.append(tensor.numel() * tensor.element_size())
        assert made[-1] <= size
        return empty(*shape, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", watched)
        reader = TensorReader(path)
        for name, entry in reader.entries.items():
            whole = reader.get(name)
            assert reader.flat(name, 0, whole.numel()).shape == (whole.numel(),)
            if entry.shape:
                assert reader.rows(name, 0, entry.shape[0]).shape == entry.shape


@many
@given(damaged() | headers() | st.binary(max_size=300))
def test_any_file_is_read_or_refused_and_never_believed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert errors_of(lambda: read_all(path)).replace("\n", " ").isprintable()


INDEX_TEXT = json.dumps({"metadata": {"total_size": 8}, "weight_map": {"x": "a.safetensors"}})


@many
@given(
    damaged(INDEX_TEXT.encode())
    | st.dictionaries(st.text(max_size=5), st.text(max_size=300), max_size=3).map(
        lambda listed: json.dumps({"weight_map": listed}).encode()
    )
)
def test_any_index_is_followed_or_refused(tmp_path: Path, content: bytes) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "a.safetensors")
    (tmp_path / INDEX).write_bytes(content)
    assert errors_of(lambda: open_checkpoint(tmp_path)).replace("\n", " ").isprintable()


@many
@given(st.data())
def test_any_manifest_is_checked_or_refused(tmp_path: Path, data: Any) -> None:
    (tmp_path / "file").write_text("x")
    write_manifest(tmp_path)
    content = data.draw(damaged((tmp_path / MANIFEST).read_bytes()) | st.binary(max_size=100))
    (tmp_path / MANIFEST).write_bytes(content)
    assert errors_of(lambda: check_manifest(tmp_path)).replace("\n", " ").isprintable()


@pytest.mark.parametrize(
    "shape", [[0, 2**62, 2**62], [2**62, 0, 4], [0] * 64, [0, 2**63 - 1], [2**31, 2**31, 0]]
)
def test_a_tensor_without_elements_claims_no_addresses(tmp_path: Path, shape: list[int]) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header)
    assert errors_of(lambda: read_all(tmp_path / "x")).replace("\n", " ").isprintable()


READERS: list[Callable[[Path], object]] = [
    read_header,
    TensorReader,
    read_text,
    read_json,
    read_manifest,
    read_pickle,
    open_checkpoint,
    lambda path: digest_files({"x": path}),
    lambda path: digest_files({"x": path}, fast=True),
    lambda path: check_manifest(path.parent / path.name),
]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["none", "n" * 5000, "a\0b", "\ud800", "none/none", "circle"])
def test_what_is_not_there_is_named_by_every_reader(
    tmp_path: Path, read: Callable[[Path], object], name: str
) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(SurgeryError) as caught:
        read(tmp_path / name)
    assert caught.value.where.startswith(str(tmp_path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("read", READERS[:6])
def test_a_folder_in_the_place_of_a_file_is_named(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(SurgeryError, match="x"):
        read(tmp_path / "x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("read", READERS[:6])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SurgeryError, match="pipe"):
        read(tmp_path / "pipe")


def test_a_file_that_is_gone_when_its_tensors_are_read_is_named(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    reader = TensorReader(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"x\.safetensors"):
        reader.get("x")


@pytest.mark.parametrize("name", ["n" * 256, "\ud800", "a\0b", "a/b", "..", ""])
def test_names_that_no_file_has_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IntegrityError):
        file_inside(tmp_path, name)


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":2}', '[{"b":{"a":1,"a":1}}]', "NaN", "[-Infinity]", "[" * 10**5, "", "\0"]
)
def test_json_that_readers_take_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="here"):
        parse_json(text, "here")


def test_a_text_is_bounded_and_in_utf8(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_text(tmp_path / "x", 5) == "12345"
    with pytest.raises(IntegrityError, match="at most 4 bytes"):
        read_text(tmp_path / "x", 4)
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(IntegrityError, match="UTF-8"):
        read_text(tmp_path / "x")


def test_errors_of_other_files_name_those() -> None:
    with pytest.raises(IntegrityError, match=r"^other: "), readable("this"):
        raise OSError(5, "Input/output error", "other")
    with pytest.raises(IntegrityError, match=r"^this: "), readable("this"):
        raise OSError(5, "Input/output error")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    (tmp_path / "x").chmod(0)
    with pytest.raises(IntegrityError, match="Permission denied"):
        read_header(tmp_path / "x")


def test_elements_are_those_of_the_whole_as_one_axis(tmp_path: Path) -> None:
    tensor = torch.arange(24.0).reshape(2, 3, 4)
    save_file({"x": tensor, "s": torch.tensor(1.5)}, tmp_path / "x.safetensors")
    reader = TensorReader(tmp_path / "x.safetensors")
    assert torch.equal(reader.flat("x", 5, 17), tensor.reshape(-1)[5:17])
    assert torch.equal(reader.flat("s", 0, 1), torch.tensor([1.5]))
    for span in ((-1, 2), (3, 2), (0, 25)):
        with pytest.raises(IndexError):
            reader.flat("x", *span)
