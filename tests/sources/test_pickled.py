"""Bases whose weights are torch pickles: read where they hold tensors alone, refused otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from surgery.errors import IntegrityError, PatientError, SurgeryError
from surgery_plugins.sources.hf import HfSource

Tensors = dict[str, torch.Tensor]
SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


@pytest.fixture
def state(base: Path) -> Tensors:
    """The tensors of the base, which has no weight files any more."""
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    return tensors


def shard(base: Path, state: Tensors) -> dict[str, str]:
    names = list(state)
    parts = {SHARDS[0]: names[:5], SHARDS[1]: names[5:]}
    for file, held in parts.items():
        torch.save({name: state[name] for name in held}, base / file)
    found = {name: file for file, held in parts.items() for name in held}
    write_index(base, found)
    return found


def write_index(base: Path, weight_map: Any) -> None:
    index = {"metadata": {}, "weight_map": weight_map}
    (base / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def assert_read(base: Path, state: Tensors) -> None:
    found = HfSource(path=str(base)).load().model.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in state.items())


def test_one_pickle_of_tensors_is_read(base: Path, state: Tensors) -> None:
    torch.save(state, base / "pytorch_model.bin")
    assert_read(base, state)
    assert HfSource(path=str(base)).weights() == {"pytorch_model.bin": base / "pytorch_model.bin"}


def test_pickled_shards_are_read(base: Path, state: Tensors) -> None:
    shard(base, state)
    assert_read(base, state)
    assert list(HfSource(path=str(base)).weights()) == list(SHARDS)


def test_structure_and_weights_have_the_stored_dtype(
    base: Path, state: Tensors, edit: Callable[..., None]
) -> None:
    edit(dtype=None, torch_dtype=None)
    torch.save({name: t.half() for name, t in state.items()}, base / "pytorch_model.bin")
    source = HfSource(path=str(base))
    for model in (source.build().model, source.load().model):
        assert {p.dtype for p in model.parameters()} == {torch.float16}


def test_safetensors_win_and_the_pickle_beside_them_is_not_opened(base: Path) -> None:
    (base / "pytorch_model.bin").write_bytes(b"damaged")
    assert list(HfSource(path=str(base)).weights()) == ["model.safetensors"]
    assert HfSource(path=str(base)).load().model


class Runs:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_code_is_listed_and_never_run(base: Path, state: Tensors, tmp_path: Path) -> None:
    torch.save({**state, "x": Runs(tmp_path / "ran")}, base / "pytorch_model.bin")
    with pytest.raises(PatientError, match="mkdir"):
        HfSource(path=str(base)).load()
    assert not (tmp_path / "ran").exists()


def nested(base: Path, state: Tensors) -> None:
    torch.save({"model": state}, base / "pytorch_model.bin")


def numbered(base: Path, state: Tensors) -> None:
    torch.save({1: torch.ones(2)}, base / "pytorch_model.bin")


def counted(base: Path, state: Tensors) -> None:
    torch.save({**state, "step": 3}, base / "pytorch_model.bin")


def listed(base: Path, state: Tensors) -> None:
    torch.save(list(state.values()), base / "pytorch_model.bin")


def cut(base: Path, state: Tensors) -> None:
    torch.save(state, base / "pytorch_model.bin")
    (base / "pytorch_model.bin").write_bytes((base / "pytorch_model.bin").read_bytes()[:2000])


def linked(base: Path, state: Tensors) -> None:
    torch.save(state, base.parent / "x.bin")
    (base / "pytorch_model.bin").symlink_to(base.parent / "x.bin")


def outside(base: Path, state: Tensors) -> None:
    found = shard(base, state)
    (base / SHARDS[1]).rename(base.parent / SHARDS[1])
    write_index(base, {n: f.replace(SHARDS[1], f"../{SHARDS[1]}") for n, f in found.items()})


def incomplete(base: Path, state: Tensors) -> None:
    shard(base, state)
    (base / SHARDS[1]).unlink()


def unreadable(base: Path, state: Tensors) -> None:
    shard(base, state)
    (base / "pytorch_model.bin.index.json").write_text('{"weight_map": [')


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (nested, PatientError, "under 'model'"),
        (numbered, PatientError, "a Tensor under 1"),
        (counted, PatientError, "a int under 'step'"),
        (listed, PatientError, "a list"),
        (cut, PatientError, "zip"),
        (linked, IntegrityError, "a link to"),
        (outside, IntegrityError, "the name of a file in the folder"),
        (incomplete, IntegrityError, "nothing there"),
        (unreadable, IntegrityError, "a weight_map"),
        (lambda base, state: write_index(base, {"a": 3}), IntegrityError, "got 3"),
        (lambda base, state: write_index(base, "a"), IntegrityError, "a weight_map"),
    ],
)
@pytest.mark.parametrize("act", [HfSource.load, HfSource.weights, HfSource.build])
def test_what_cannot_be_trusted_is_one_clear_error_before_transformers_reads_it(
    base: Path,
    state: Tensors,
    edit: Callable[..., None],
    damage: Callable[[Path, Tensors], object],
    kind: type[SurgeryError],
    words: str,
    act: Callable[[HfSource], object],
) -> None:
    edit(dtype=None, torch_dtype=None)  # so that even the structure needs the stored dtype
    damage(base, state)
    with pytest.raises(kind) as caught:
        act(HfSource(path=str(base)))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
