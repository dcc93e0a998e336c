from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from surgery.checkpoint.index import INDEX, open_checkpoint
from surgery.errors import IntegrityError, PatientError

A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def shard(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.ones(2) for name in names}, path)


def index(folder, listed):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))


@pytest.fixture
def sharded(tmp_path):
    folder = tmp_path / "base"
    shard(folder / A, "x", "y")
    shard(folder / B, "z")
    index(folder, {"x": A, "y": A, "z": B})
    return folder


def refused(folder, kind=IntegrityError) -> str:
    with pytest.raises(kind) as caught:
        open_checkpoint(folder)
    assert str(folder) in caught.value.where
    return str(caught.value)


def test_one_file_is_found(tmp_path):
    shard(tmp_path / "model.safetensors", "x")
    assert open_checkpoint(tmp_path) == {"model.safetensors": tmp_path / "model.safetensors"}


def test_a_single_file_of_any_name_is_found(tmp_path):
    shard(tmp_path / "open_clip.safetensors", "x")
    assert list(open_checkpoint(tmp_path)) == ["open_clip.safetensors"]


def test_all_shards_are_found(sharded):
    assert open_checkpoint(sharded) == {A: sharded / A, B: sharded / B}


def test_the_usual_name_comes_first(sharded):
    shard(sharded / "model.safetensors", "x")
    assert list(open_checkpoint(sharded)) == ["model.safetensors"]


def test_other_files_beside_an_index_are_left_alone(sharded):
    shard(sharded / "adapter.safetensors", "x")
    assert list(open_checkpoint(sharded)) == [A, B]


def test_a_missing_folder_is_named(tmp_path):
    assert "nothing there" in refused(tmp_path / "none", PatientError)
    (tmp_path / "file").touch()
    assert "a file" in refused(tmp_path / "file", PatientError)


def test_an_empty_folder_is_named(tmp_path):
    assert "an empty folder" in refused(tmp_path, PatientError)


def test_a_folder_without_weights_names_what_it_holds(tmp_path):
    (tmp_path / "config.json").touch()
    assert "got config.json" in refused(tmp_path, PatientError)


def test_a_folder_of_pickles_says_how_to_go_on(tmp_path):
    (tmp_path / "config.json").touch()
    (tmp_path / "pytorch_model.bin").touch()
    text = refused(tmp_path, PatientError)
    assert "only torch pickles, which can run code: pytorch_model.bin" in text
    assert "safetensors" in text


def test_several_files_without_an_index_are_refused(sharded):
    (sharded / INDEX).unlink()
    assert "2 safetensors files without" in refused(sharded, PatientError)


@pytest.mark.parametrize("number", range(2))
def test_a_damaged_file_is_refused(sharded, number):
    path = sharded / (A, B)[number]
    path.write_bytes(path.read_bytes()[:-1])
    refused(sharded)


def test_a_damaged_single_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    refused(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"weight_map":{}}',
        '{"weight_map":[]}',
        '{"weight_map":{"x":1}}',
        "[" * 99999,
    ],
)
def test_an_index_without_a_map_is_refused(sharded, text):
    (sharded / INDEX).write_text(text)
    refused(sharded)


def test_an_index_that_is_no_text_is_refused(sharded):
    (sharded / INDEX).write_bytes(b"\xff\xfe{}")
    refused(sharded)


def test_a_missing_shard_is_refused(sharded):
    (sharded / B).unlink()
    assert B in refused(sharded)


def test_a_tensor_that_its_shard_does_not_hold_is_refused(sharded):
    index(sharded, {"x": A, "y": A, "z": B, "w": B})
    assert f"tensor 'w' in {B}" in refused(sharded)


def test_a_tensor_that_the_index_does_not_list_is_refused(sharded):
    index(sharded, {"x": A, "z": B})
    assert "'y'" in refused(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded):
    shard(sharded / B, "x", "z")
    assert f"{B} for its tensor 'x'" in refused(sharded)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "..",
        ".",
        "",
        "..\\x",
        "C:x",
        "a\0b",
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(sharded, name):
    shard(sharded.parent / "secret.safetensors", "z")
    shard(sharded / "sub" / "x.safetensors", "z")
    index(sharded, {"x": A, "y": A, "z": name})
    assert "name of a file in the folder" in refused(sharded)


def test_an_absolute_path_into_the_folder_is_refused(sharded):
    index(sharded, {"x": str(sharded / A), "y": str(sharded / A), "z": B})
    refused(sharded)


@pytest.mark.parametrize("name", [A, INDEX])
def test_a_link_out_of_the_folder_is_refused(sharded, name):
    outside = sharded.parent / "outside"
    (sharded / name).rename(outside)
    (sharded / name).symlink_to(outside)
    assert "a link to" in refused(sharded)


def test_a_single_file_that_is_a_link_out_of_the_folder_is_refused(tmp_path):
    shard(tmp_path / "secret.safetensors", "x")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").symlink_to(tmp_path / "secret.safetensors")
    assert "a link to" in refused(tmp_path / "base")


def test_a_link_inside_the_folder_is_followed(sharded):
    (sharded / A).rename(sharded / "real")
    (sharded / A).symlink_to("real")
    assert list(open_checkpoint(sharded)) == [A, B]


def cached(root, model="models--org--name"):
    """Lay a model out as the Hugging Face cache does; give its folder."""
    shard(root / model / "blobs" / "0123", "x")
    folder = root / model / "snapshots" / "main"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").symlink_to("../../blobs/0123")
    return folder


def test_the_cache_of_hugging_face_is_followed(tmp_path):
    assert list(open_checkpoint(cached(tmp_path))) == ["model.safetensors"]


def test_the_blobs_of_another_cached_model_are_not_followed(tmp_path):
    cached(tmp_path, "models--org--secret")
    folder = cached(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../../models--org--secret/blobs/0123")
    assert "a link to" in refused(folder)


def test_a_folder_that_only_looks_like_the_cache_is_not_followed(tmp_path):
    assert "a link to" in refused(cached(tmp_path, "name"))


def test_a_link_to_a_folder_is_followed(sharded):
    (sharded.parent / "link").symlink_to(sharded.name)
    assert list(open_checkpoint(sharded.parent / "link")) == [A, B]
