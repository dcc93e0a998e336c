from __future__ import annotations

import argparse
import copy
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgery.checkpoint.pickles import read_pickle
from surgery.errors import PatientError


class Runs:
    """Leave a file behind when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def saved(folder: Path, value, **options) -> Path:
    path = folder / "x.pt"
    torch.save(value, path, **options)
    return path


def repacked(path: Path, part: str, change, packing=zipfile.ZIP_STORED) -> Path:
    """Write an archive anew with one part changed."""
    target = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", packing) as new:
        for item in old.infolist():
            data = old.read(item)
            new.writestr(item.filename, change(data) if item.filename.endswith(part) else data)
    return target


def refused(path: Path) -> str:
    with pytest.raises(PatientError) as caught:
        read_pickle(path)
    assert caught.value.where == str(path)
    return str(caught.value)


def test_tensors_and_plain_containers_are_read(tmp_path):
    value = {
        "model": OrderedDict(w=torch.arange(6.0).reshape(2, 3), b=torch.ones(2).bfloat16()),
        "step": 3,
        "list": [torch.tensor(True), (1.5, "text", None)],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    found = read_pickle(saved(tmp_path, value))
    assert torch.equal(found["model"]["w"], value["model"]["w"])
    assert found["model"]["b"].dtype == torch.bfloat16
    assert found["list"][1] == (1.5, "text", None)
    assert found["step"] == 3
    assert torch.equal(found["parameter"], value["parameter"])


def test_views_of_one_storage_are_read(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    found = read_pickle(saved(tmp_path, {"turned": base.t(), "part": base[1:, ::2]}))
    assert torch.equal(found["turned"], base.t())
    assert torch.equal(found["part"], base[1:, ::2])


def test_code_is_listed_and_never_run(tmp_path):
    path = saved(tmp_path, {"a": Runs(tmp_path / "ran"), "b": argparse.Namespace(x=1)})
    text = refused(path)
    assert "argparse.Namespace" in text
    assert "Path" in text
    assert not (tmp_path / "ran").exists()


def test_a_whole_module_is_refused_by_its_classes(tmp_path):
    assert "torch.nn.modules.linear.Linear" in refused(saved(tmp_path, torch.nn.Linear(2, 2)))


def test_a_tensor_larger_than_the_file_is_refused(tmp_path):
    path = saved(tmp_path, {"deep": [{"a": torch.ones(1).expand(10**10)}]})
    assert path.stat().st_size < 10_000
    assert "40000000000 bytes claimed" in refused(path)


def test_a_tensor_without_storage_is_refused(tmp_path):
    assert "claimed" in refused(saved(tmp_path, [torch.empty(10**9, device="meta")]))


def test_a_sparse_tensor_that_claims_more_than_it_holds_is_refused(tmp_path):
    sparse = torch.sparse_coo_tensor(
        torch.zeros(2, 1).long(), torch.ones(1), (10**5, 10**5), check_invariants=True
    )
    refused(saved(tmp_path, sparse))


def test_a_storage_larger_than_its_part_is_refused(tmp_path):
    path = saved(tmp_path, {"a": torch.ones(4)})
    longer = repacked(path, "data.pkl", lambda data: data.replace(b"K\x04tq", b"K\xfftq", 1))
    refused(longer)


def test_packed_parts_are_refused(tmp_path):
    path = saved(tmp_path, {"a": torch.zeros(1_000_000)})
    small = repacked(path, "none", None, packing=zipfile.ZIP_DEFLATED)
    assert small.stat().st_size < 100_000
    assert "packed parts" in refused(small)


def test_packed_parts_that_are_no_smaller_are_refused(tmp_path):
    path = saved(tmp_path, {"a": torch.randint(0, 256, (100_000,), dtype=torch.uint8)})
    assert "packed parts" in refused(repacked(path, "none", None, packing=zipfile.ZIP_DEFLATED))


def test_parts_that_share_their_bytes_are_refused(tmp_path):
    path = repacked(saved(tmp_path, {"a": torch.zeros(1000)}), "none", None)
    with zipfile.ZipFile(path, "a") as archive:
        first = next(item for item in archive.filelist if item.filename.endswith("data/0"))
        for number in range(100):
            other = copy.copy(first)
            other.filename = first.filename + str(number)
            archive.filelist.append(other)
        archive._didModify = True
    assert "parts that claim" in refused(path)


def test_the_old_format_is_refused(tmp_path):
    path = saved(tmp_path, {"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    assert "torch 1.6" in refused(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02.", bytes(1000)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    refused(tmp_path / "x.pt")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert "nothing there" in refused(tmp_path / "none.pt")
    refused(tmp_path)


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("readme", "hello")
    refused(tmp_path / "x.pt")


@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_never_run(tmp_path, data):
    path = tmp_path / "x.pt"
    if not path.exists():
        saved(tmp_path, {"a": torch.arange(4.0), "b": [torch.ones(2)]})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "damaged.pt").write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        read_pickle(tmp_path / "damaged.pt")
    except PatientError:
        return
