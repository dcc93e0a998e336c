from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 32,
}  # fmt: skip
INLINE = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **CONFIG}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny causal model as transformers saves it."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def edit(base: Path) -> Callable[..., None]:
    """Change keys of the saved config.json; None removes one."""

    def change(**keys: Any) -> None:
        file = base / "config.json"
        merged = {**json.loads(file.read_text()), **keys}
        file.write_text(json.dumps({k: v for k, v in merged.items() if v is not None}))

    return change
