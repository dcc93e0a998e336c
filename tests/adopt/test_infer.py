"""Sizes: read off shapes where they show them, asked for where they do not, never defaulted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from tests.adopt.conftest import SIZES, transformers
from tests.adopt.kit import saved
from tests.adopt.test_adopt import Tensors, assert_same
from tests.command import Ran

Run = Callable[..., Ran]


def numbers(done: Ran) -> dict[str, tuple[Any, str]]:
    return {one["name"]: (one["value"], one["from"]) for one in done.json["numbers"]}


def test_wrong_sizes_are_named_by_tensor_and_then_read_off_the_file(
    run: Run, state: Tensors, tmp_path: Path, like: Callable[..., Path]
) -> None:
    path = saved(tmp_path / "a.ckpt", {f"net.{n}": t for n, t in state.items()})
    wrong = like(hidden_size=32, vocab_size=50, num_hidden_layers=2, intermediate_size=64)
    done = run("adopt", path, "--like", wrong)
    assert done.status == 1
    assert "lm_head.weight is [96, 16] and not [50, 32]" in done.err
    assert "--infer" in done.err
    done = run("adopt", path, "--like", wrong, "--infer", "-o", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    for name in ("hidden_size", "vocab_size", "num_hidden_layers", "intermediate_size"):
        assert numbers(done)[name] == (SIZES[name], "shapes")
    assert numbers(done)["num_attention_heads"] == (4, "the declared structure")
    assert_same(dict(surgery.load(tmp_path / "out").model.state_dict()), state)


def test_what_shapes_do_not_show_and_nobody_states_is_asked_for(
    run: Run, state: Tensors, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.ckpt", state)
    (tmp_path / "like").mkdir()
    bare = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2,
    }  # fmt: skip
    (tmp_path / "like" / "config.json").write_text(json.dumps(bare))
    done = run("adopt", path, "--like", tmp_path / "like", "--infer")
    assert done.status == 2
    assert "num_attention_heads" in done.err
    assert "rms_norm_eps" in done.err
    assert "hidden_size" not in done.err.partition("--set ")[2].partition("got")[0]
    stated = ["--set", "num_attention_heads=4"]
    done = run("adopt", path, "--like", tmp_path / "like", "--infer", *stated)
    assert done.status == 2
    assert "num_attention_heads" not in done.err
    done = run(
        "adopt", path, "--like", tmp_path / "like", "--infer", *stated, "--defaults", "--json"
    )
    assert done.status == 0, done.err
    found = numbers(done)
    assert found["num_attention_heads"] == (4, "--set")
    assert found["num_key_value_heads"] == (2, "shapes")
    assert found["rms_norm_eps"][1] == "its default"


def test_numbers_that_the_file_tells_come_before_defaults(
    run: Run, state: Tensors, tmp_path: Path, like: Callable[..., Path]
) -> None:
    told = {"state_dict": state, "hyper_parameters": {"rms_norm_eps": 0.5, "unknown": 3}}
    path = saved(tmp_path / "a.ckpt", told)
    bare = like(rms_norm_eps=None)
    done = run("adopt", path, "--like", bare, "--infer", "--json", "-o", tmp_path / "out")
    assert done.status == 0, done.err
    assert numbers(done)["rms_norm_eps"] == (0.5, "the file's hyper-parameters")
    assert surgery.load(tmp_path / "out").model.config.rms_norm_eps == 0.5


def test_a_stated_number_that_the_file_contradicts_fails(
    run: Run, state: Tensors, tmp_path: Path, like: Callable[..., Path]
) -> None:
    path = saved(tmp_path / "a.ckpt", state)
    done = run("adopt", path, "--like", like(), "--infer", "--set", "vocab_size=97")
    assert done.status == 1
    assert "is [96, 16] and not [97, 16]" in done.err
    done = run("adopt", path, "--like", like(), "--set", "vocab_sizes=97")
    assert done.status == 2
    assert "did you mean 'vocab_size'" in done.err


@pytest.mark.parametrize(
    ("kind", "sizes", "wrong"),
    [
        (
            "Bert", {"num_attention_heads": 2},
            {"hidden_size": 24, "num_hidden_layers": 4, "vocab_size": 70,
             "max_position_embeddings": 40, "intermediate_size": 20},
        ),
        pytest.param(
            "GPT2", {"n_head": 2},
            {"n_embd": 24, "n_layer": 4, "vocab_size": 70, "n_positions": 40},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "ViT", {"num_attention_heads": 2},
            {"hidden_size": 24, "num_hidden_layers": 4, "intermediate_size": 20, "num_channels": 1},
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_sizes_of_other_architectures(
    run: Run, tmp_path: Path, kind: str, sizes: dict[str, int], wrong: dict[str, int]
) -> None:
    config = getattr(transformers, f"{kind}Config")(**sizes, **wrong)
    model = getattr(transformers, f"{kind}Model")(config)
    data = {**config.to_dict(), "architectures": [f"{kind}Model"]}
    data |= {name: 2 * value for name, value in wrong.items()}
    (tmp_path / "like").mkdir()
    (tmp_path / "like" / "config.json").write_text(json.dumps(data))
    path = saved(tmp_path / "a.pt", {f"encoder.{n}": t for n, t in model.state_dict().items()})
    done = run("adopt", path, "--like", tmp_path / "like", "--infer", "--json")
    assert done.status == 0, done.err
    for name, value in wrong.items():
        assert numbers(done)[name] == (value, "shapes")


def test_a_resampler_without_metadata_says_its_sizes(run: Run, tmp_path: Path) -> None:
    resampler = {
        "input_proj.weight": torch.ones(64, 72), "input_proj.bias": torch.ones(64),
        "layers.0.norm.weight": torch.ones(64), "layers.1.norm.weight": torch.ones(64),
        "queries": torch.ones(1, 16, 64),
    }  # fmt: skip
    held = {f"resampler_module.resampler.{n}": t for n, t in resampler.items()}
    done = run("adopt", saved(tmp_path / "a.ckpt", {"state_dict": held}), "--json")
    assert done.status == 0, done.err
    shown = {(one["what"], one["value"]) for one in done.json["shown"]}
    assert ("width", 64) in shown
    assert ("layers of resampler_module.resampler.layers", 2) in shown
