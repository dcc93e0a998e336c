"""A small model of transformers, saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 96, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def state(base: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(base / "model.safetensors")


@pytest.fixture
def like(base: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a folder with the configuration alone, some of it changed; None takes a key out."""

    def write(**changes: Any) -> Path:
        data = {**json.loads((base / "config.json").read_text()), **changes}
        data = {key: value for key, value in data.items() if value is not None}
        (tmp_path / "like").mkdir(exist_ok=True)
        (tmp_path / "like" / "config.json").write_text(json.dumps(data))
        return tmp_path / "like"

    return write
