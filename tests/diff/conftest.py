"""Small models of transformers in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)
SMALL: dict[str, Any] = {"vocab_size": 48, "bos_token_id": 1, "eos_token_id": 2}
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def llama(**more: Any) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, **SHAPE, **HEADS, **more)
    return transformers.LlamaForCausalLM(config).eval()


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL, **shape)).eval()


def mixtral() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**SMALL, **SHAPE, **HEADS, num_local_experts=4)
    return transformers.MixtralForCausalLM(config).eval()


def stir(model: nn.Module, *endings: str, rank: int = 2, scale: float = 0.1) -> nn.Module:
    """Change parameters whose names end so by matrices of a rank."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(endings):
                left = torch.randn(*parameter.shape[:-1], rank, generator=generator)
                right = torch.randn(
                    *parameter.shape[:-2], rank, parameter.shape[-1], generator=generator
                )
                parameter += (scale * left @ right).to(parameter.dtype)
    return model


@pytest.fixture(scope="session")
def kept_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "base"
    llama().save_pretrained(folder)
    return folder


@pytest.fixture
def base(kept_base: Path, tmp_path: Path) -> Path:
    from shutil import copytree

    return Path(copytree(kept_base, tmp_path / "base"))
