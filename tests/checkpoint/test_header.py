from __future__ import annotations

import json
import struct

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file

from surgery.checkpoint.dtypes import CODES, KINDS, size_of
from surgery.checkpoint.header import MAX_HEADER, read_header
from surgery.errors import IntegrityError

shared_folder = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150
)
FOUR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def put(folder, content: bytes):
    path = folder / "x.safetensors"
    path.write_bytes(content)
    return path


def refused(folder, content: bytes) -> str:
    path = put(folder, content)
    with pytest.raises(IntegrityError) as caught:
        read_header(path)
    assert str(path) in caught.value.where
    assert caught.value.wanted
    assert caught.value.found
    assert str(caught.value).isprintable()
    return str(caught.value)


def with_field(**changes) -> bytes:
    entry = {key: value for key, value in {**FOUR, **changes}.items() if value is not None}
    return raw(json.dumps({"a": entry}).encode(), bytes(4))


def test_sizes_of_dtypes_are_those_of_torch():
    known = {name for name in CODES if hasattr(torch, name)}
    assert len(known) >= len(CODES) - 1
    assert all(size_of(name) == getattr(torch, name).itemsize for name in known)


def test_a_sound_file_is_read_as_its_own_library_reads_it(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {
        "a.weight": torch.ones(3, 2, dtype=torch.bfloat16),
        "b": torch.tensor(True),
        "empty": torch.zeros(0, 4),
        "c": torch.ones(2, dtype=torch.complex64),
    }
    save_file(tensors, path, {"format": "pt", "note": "ü"})
    header = read_header(path)
    assert header.metadata == {"format": "pt", "note": "ü"}
    assert {n: (e.dtype, e.shape) for n, e in header.entries.items()} == {
        n: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in tensors.items()
    }
    content = path.read_bytes()
    entry = header.entries["a.weight"]
    assert content[entry.begin : entry.end] == b"\x80\x3f" * 6
    assert entry.file == path


def test_an_empty_header_is_sound(tmp_path):
    assert read_header(put(tmp_path, raw(b"{}"))).entries == {}


@pytest.mark.parametrize("size", range(10))
def test_files_too_short_for_a_header_are_refused(tmp_path, size):
    assert "10 bytes" in refused(tmp_path, bytes(size))


def test_a_length_beyond_the_file_is_refused(tmp_path):
    assert "ends after" in refused(tmp_path, raw(b"{}", length=3))


def test_a_huge_length_is_refused_before_it_is_read(tmp_path):
    assert str(MAX_HEADER) in refused(tmp_path, raw(b"{}", length=2**63))


@pytest.mark.parametrize("lead", [b" ", b"\n", b"\xef\xbb\xbf", b"["])
def test_a_header_starts_with_a_brace(tmp_path, lead):
    assert "starts with '{'" in refused(tmp_path, raw(lead + b"{}"))


@pytest.mark.parametrize("text", [b'{"', b"{}x", b"{\xff}", b'{"a":' * 100_000, b"{'a':1}"])
def test_a_header_is_json(tmp_path, text):
    assert "JSON" in refused(tmp_path, raw(text))


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":%(e)b,"a":%(e)b}',
        b'{"__metadata__":{"x":"1","x":"2"},"a":%(e)b}',
        b'{"__metadata__":{},"__metadata__":{},"a":%(e)b}',
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_a_name_that_stands_twice_is_refused(tmp_path, text):
    header = text.replace(b"%(e)b", json.dumps(FOUR).encode())
    assert "twice" in refused(tmp_path, raw(header, bytes(4)))


@pytest.mark.parametrize("value", [[], "x", {"a": 1}, {"a": None}, {"a": {"b": "c"}}])
def test_metadata_are_text_by_text(tmp_path, value):
    header = json.dumps({"__metadata__": value}).encode()
    assert "metadata" in refused(tmp_path, raw(header))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../x",
        "a/../b",
        "..",
        "a\\..\\b",
        "\x1b[31m",
        "a\0b",
        "a\nb",
        "\ud800",
        "x" * 513,
        "\u202e",
    ],
)
def test_names_that_could_do_harm_are_refused(tmp_path, name):
    assert "name" in refused(tmp_path, raw(json.dumps({name: FOUR}).encode(), bytes(4)))


@pytest.mark.parametrize("name", ["a..b", "model.layers.0/x:y-z", "gewicht.ü", "x" * 512, "a b"])
def test_harmless_names_are_read(tmp_path, name):
    path = put(tmp_path, raw(json.dumps({name: FOUR}).encode(), bytes(4)))
    assert list(read_header(path).entries) == [name]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", "F31"),
        ("dtype", 4),
        ("dtype", ["F32"]),
        ("dtype", None),
        ("shape", [-1]),
        ("shape", [1.0]),
        ("shape", [True]),
        ("shape", 1),
        ("shape", [1] * 65),
        ("shape", [2**63]),
        ("shape", [0, 10**30]),
        ("shape", [2]),
        ("data_offsets", [0]),
        ("data_offsets", [0, 4, 4]),
        ("data_offsets", [-4, 0]),
        ("data_offsets", [4, 0]),
        ("data_offsets", [0, "4"]),
        ("data_offsets", [0, 4.0]),
        ("data_offsets", [1, 5]),
        ("data_offsets", [0, 8]),
        ("extra", 1),
    ],
)
def test_a_wrong_field_of_a_tensor_is_refused(tmp_path, field, value):
    assert read_header(put(tmp_path, with_field())).entries
    refused(tmp_path, with_field(**{field: value}))


@pytest.mark.parametrize(
    ("spans", "size"),
    [
        ([(0, 4), (2, 6)], 6),
        ([(0, 4), (0, 4)], 4),
        ([(0, 4), (8, 12)], 12),
        ([(4, 8)], 8),
        ([(0, 4)], 8),
        ([(0, 4), (4, 8)], 7),
        ([], 1),
    ],
)
def test_holes_overlaps_and_cuts_are_refused(tmp_path, spans, size):
    header = {f"t{i}": {**FOUR, "data_offsets": span} for i, span in enumerate(spans)}
    refused(tmp_path, raw(json.dumps(header).encode(), bytes(size)))


GOOD = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.int8)})


@pytest.mark.parametrize("size", range(len(GOOD)))
def test_a_file_cut_off_anywhere_is_refused(tmp_path, size):
    refused(tmp_path, GOOD[:size])


@shared_folder
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_leaves_a_file_that_its_library_reads(tmp_path, place, flip):
    changed = bytearray(GOOD)
    changed[place] ^= flip
    agrees_with_library(put(tmp_path, bytes(changed)))


@shared_folder
@example(b"{}")
@given(st.binary(max_size=200))
def test_any_header_is_refused_or_read_as_its_library_reads_it(tmp_path, header):
    agrees_with_library(put(tmp_path, raw(header)))


entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*KINDS, "F31"]),
        "shape": st.lists(st.integers(-1, 3), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 20), min_size=1, max_size=3),
    }
)


@shared_folder
@given(st.dictionaries(st.text(max_size=4), entries, max_size=3), st.integers(0, 24))
def test_any_entries_are_refused_or_read_as_their_library_reads_them(tmp_path, header, size):
    agrees_with_library(put(tmp_path, raw(json.dumps(header).encode(), bytes(size))))


def agrees_with_library(path):
    """Whatever passes must be what the format's own reader sees."""
    try:
        header = read_header(path)
    except IntegrityError:
        return
    with safe_open(path, "pt") as theirs:
        assert set(theirs.keys()) == set(header.entries)
        for name, entry in header.entries.items():
            view = theirs.get_slice(name)
            assert tuple(view.get_shape()) == entry.shape
            assert KINDS[view.get_dtype()] == entry.dtype
