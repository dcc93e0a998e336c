"""A small model of transformers in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def saved_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "llama"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def base(saved_base: Path, tmp_path: Path) -> Path:
    from shutil import copytree

    return Path(copytree(saved_base, tmp_path / "base"))


@pytest.fixture
def recipe(base: Path, tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe.yaml")


def write_recipe(path: Path, **changes: Any) -> Path:
    data: dict[str, Any] = {
        "recipe": 1,
        "patient": {"source": "hf", "path": "./base"},
        "surgeries": [
            {"use": "freeze"},
            {
                "use": "lora",
                "at": {"role": ["attention.q", "attention.v"], "layers": "1-2"},
                "with": {"rank": 2, "alpha": 4},
                "expect": 4,
            },
        ],
        "output": {"path": "./out"},
    }
    path.write_text(yaml.safe_dump({**data, **changes}))
    return path
