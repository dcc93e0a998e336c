"""Finding the state dict: anywhere in nested containers, never in an optimizer, never by chance."""

from __future__ import annotations

import argparse
import collections
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from surgery.checkpoint.legacy.find import WHOLE, metadata_of, only, state_dicts
from surgery.checkpoint.legacy.read import open_legacy
from surgery.errors import IntegrityError, PatientError, RecipeError
from tests.adopt.kit import saved

SD = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}


def keys(tree: Any) -> list[str]:
    return [one.key for one in state_dicts(tree, "file")]


PLAIN = st.one_of(
    st.integers(), st.text(max_size=5), st.none(), st.lists(st.integers(), max_size=2),
    st.just({"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}),
    st.just({"state": {"fc.weight": {"exp_avg": torch.ones(2)}}, "param_groups": []}),
    st.just({"torch": torch.zeros(4, dtype=torch.uint8)}), st.just([torch.ones(3)]),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text(min_size=1, max_size=6), max_size=6),
    st.lists(st.dictionaries(st.text(max_size=6), PLAIN, max_size=4), min_size=6, max_size=6),
)
def test_the_state_dict_is_found_however_deep_it_lies(path: list[str], clutter: list[Any]) -> None:
    tree: Any = SD
    for key, beside in zip(reversed(path), clutter, strict=False):
        tree = {**beside, key: tree}
    found = only(state_dicts(tree, "file"), "file")
    assert found.key == (".".join(path) or WHOLE)
    assert set(found.tensors) == set(SD)


def test_several_are_listed_and_one_is_chosen_by_its_key() -> None:
    tree = {"model": SD, "ema": {"shadow": dict(SD)}}
    found = state_dicts(tree, "file")
    with pytest.raises(PatientError, match=r"'model' \(2 tensors\), 'ema.shadow'.*--key"):
        only(found, "file")
    assert only(state_dicts(tree, "file", "ema.shadow"), "file").key == "ema.shadow"
    with pytest.raises(RecipeError, match="did you mean 'model'"):
        state_dicts(tree, "file", "modl")


def test_of_a_lightning_checkpoint_only_the_state_dict_counts() -> None:
    tree = {"pytorch-lightning_version": "2.6", "state_dict": SD, "callbacks": {"EMA": dict(SD)}}
    assert keys(tree) == ["state_dict"]


def test_one_state_dict_under_two_keys_is_one() -> None:
    assert keys({"model": SD, "state_dict": SD}) == ["model"]


def test_containers_in_circles_and_towers_of_references_end() -> None:
    circle: dict[str, Any] = {"sd": SD}
    circle["again"] = circle
    assert keys(circle) == ["sd"]
    tower: Any = {"w": torch.ones(1)}
    for _ in range(60):
        tower = {str(n): tower for n in range(10)}
    with pytest.raises(PatientError):
        state_dicts(tower, "file")


@pytest.mark.parametrize("tree", [3, [], {}, {"a": 1}, [SD], {1: SD}, {"g": {"seed": 0}}])
def test_nothing_to_find_is_one_clear_error(tree: Any) -> None:
    with pytest.raises(PatientError, match="expected tensors by name"):
        state_dicts(tree, "file")


def test_what_is_no_tensor_beside_tensors_is_named() -> None:
    found = only(state_dicts({**SD, "step": 3, "fc._extra_state": None}, "file"), "file")
    assert found.others == ("step", "fc._extra_state")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2).to_sparse(),
        torch.ones(2, dtype=torch.complex128),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    ],
)
def test_tensors_that_safetensors_cannot_hold_are_refused_by_name(tensor: torch.Tensor) -> None:
    with pytest.raises(PatientError, match="'odd'"):
        state_dicts({**SD, "odd": tensor}, "file")


def test_numbers_a_file_tells_are_kept_and_texts_are_not() -> None:
    told = metadata_of({"epoch": 3, "hyper_parameters": {"dim": 8, "key": "secret", "on": True}})
    assert told == {"epoch": 3, "dim": 8, "on": True}


# Files


def test_pickles_are_mapped_and_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {"state_dict": {"w": torch.ones(1000, 1000)}})
    before = _anonymous()
    tensor = only(state_dicts(open_legacy(path).tree, "f"), "f").tensors["w"]
    assert _anonymous() - before < 3_000_000
    assert tensor.shape == (1000, 1000)


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(one.split()[1]) * 1000 for one in lines if one.startswith("RssAnon"))


class Runs:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_classes_are_listed_then_read_past_and_never_run(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "a.ckpt",
        {
            "state_dict": SD,
            "hyper_parameters": argparse.Namespace(dim=8, name="x"),
            "logs": collections.defaultdict(list, {"loss": [1.0]}),
            "path": Path("/x"),
        },
    )
    with pytest.raises(PatientError, match=r"argparse\.Namespace.*--leave-out-objects"):
        open_legacy(path)
    found = open_legacy(path, leave_out_objects=True)
    assert keys(found.tree) == ["state_dict"]
    assert metadata_of(found.tree) == {"dim": 8}
    assert "argparse.Namespace" in found.left_out


def test_code_is_not_run_even_where_objects_are_read_past(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {"state_dict": SD, "x": Runs(tmp_path / "ran")})
    for leave_out in (False, True):
        with pytest.raises(PatientError):
            open_legacy(path, leave_out_objects=leave_out)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_part_is_seen_though_the_file_is_mapped(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {"w": torch.arange(1000.0), "v": torch.ones(10)})
    content = bytearray(path.read_bytes())
    content[content.find(torch.arange(1000.0).numpy().tobytes()) + 77] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="checksum"):
        open_legacy(path)


def test_a_file_without_checksums_is_read_and_a_note_says_so(tmp_path: Path) -> None:
    from torch.serialization import set_crc32_options

    set_crc32_options(False)
    try:
        path = saved(tmp_path / "a.ckpt", {"w": torch.arange(1000.0)})
    finally:
        set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None
    assert any("without checksums" in note for note in open_legacy(path).notes)


def test_a_folder_of_pickled_shards_is_joined(tmp_path: Path) -> None:
    for number, (name, tensor) in enumerate(SD.items()):
        saved(tmp_path / f"pytorch_model-0000{number}-of-00002.bin", {name: tensor})
    assert set(only(state_dicts(open_legacy(tmp_path).tree, "f"), "f").tensors) == set(SD)


def test_shards_that_hold_one_name_twice_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        saved(tmp_path / f"pytorch_model-0000{number}-of-00002.bin", SD)
    with pytest.raises(IntegrityError, match="in two"):
        open_legacy(tmp_path)


def test_a_safetensors_file_and_its_folder_are_read(tmp_path: Path) -> None:
    save_file(SD, tmp_path / "x.safetensors")
    for path in (tmp_path, tmp_path / "x.safetensors"):
        assert set(only(state_dicts(open_legacy(path).tree, "f"), "f").tensors) == set(SD)


def test_a_distributed_checkpoint_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"")
    with pytest.raises(PatientError, match="dcp_to_torch"):
        open_legacy(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"PK", b"\x80\x02."])
def test_what_is_no_checkpoint_is_one_clear_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises((PatientError, IntegrityError)):
        open_legacy(tmp_path / "a.ckpt")
