"""Tiny models of every kind that PEFT adapts, and how they answer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

torch.set_num_threads(1)

TOLERANCE = 1e-6
IDS = torch.tensor([[1, 5, 7, 3], [2, 9, 30, 31]])
SMALL: dict[str, Any] = {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}
Make = Callable[[], nn.Module]


def _seeded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


X = _seeded(2, 5, 16)


def llama(**more: Any) -> nn.Module:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**{**SMALL, **shape, **heads, **more})
    return transformers.LlamaForCausalLM(config)


def tied() -> nn.Module:
    return llama(tie_word_embeddings=True)


def biased() -> nn.Module:
    model = llama(attention_bias=True, mlp_bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(generator=torch.Generator().manual_seed(2))
    return model


def mixtral() -> nn.Module:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**SMALL, **shape, **heads))


def gpt_oss() -> nn.Module:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "head_dim": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    config = transformers.GptOssConfig(**SMALL, **shape, **heads, num_experts_per_tok=2)
    model = transformers.GptOssForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(3))
    return model


def gpt2() -> nn.Module:
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL, **shape))


def neox() -> nn.Module:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = transformers.GPTNeoXConfig(**SMALL, **shape, num_attention_heads=4)
    return transformers.GPTNeoXForCausalLM(config)


def gemma() -> nn.Module:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.Gemma3TextConfig(**SMALL, **shape, **heads, pad_token_id=0)
    return transformers.Gemma3ForCausalLM(config)


def bert() -> nn.Module:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = transformers.BertConfig(
        vocab_size=32, **shape, num_attention_heads=2, max_position_embeddings=16, num_labels=3
    )
    return transformers.BertForSequenceClassification(config)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(x, x, x, need_weights=False)[0]


class Stack(nn.Module):
    """Convolutions of one number of axes, two plain ones."""

    def __init__(self, axes: int, **more: Any) -> None:
        super().__init__()
        kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        self.axes = axes
        self.a = kind(4, 8, 3, padding=1, stride=2, **more)
        self.norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 1](8)
        self.b = kind(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.norm(self.a(x))))


def conv1d() -> nn.Module:
    return Stack(1)


def conv2d() -> nn.Module:
    return Stack(2)


def conv3d() -> nn.Module:
    return Stack(3)


def grouped() -> nn.Module:
    return Stack(2, groups=2)


def inputs_of(model: nn.Module) -> dict[str, Any]:
    """Give keyword arguments for one forward."""
    base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    if isinstance(base, Stack):
        return {"x": _seeded(1, 4, *[7] * base.axes)}
    return {"x": X} if isinstance(base, Attention) else {"input_ids": IDS}


def answer(model: nn.Module) -> torch.Tensor:
    given = inputs_of(model)
    with torch.no_grad():
        found = model(given["x"]) if "x" in given else model(**given).logits
    return found


def fresh(make: Make) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def stir(model: nn.Module, names: tuple[str, ...] = ("lora_", "rows_")) -> None:
    """Train without training: every tensor of an adapter, or of a name, gets other values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in names):
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1


def in_peft(base: nn.Module, folder: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()


def saved_by_peft(make: Make, folder: Path, **config: Any) -> tuple[nn.Module, Any]:
    """Have PEFT make an adapter, train it, and save it.

    Returns:
        The base, and PEFT's model.
    """
    base = fresh(make)
    torch.manual_seed(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"r": 3, "init_lora_weights": False, **config}
        theirs = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**options)).eval()
        train(theirs)
        theirs.save_pretrained(str(folder))
    return base, theirs


def train(theirs: nn.Module) -> None:
    """Change everything that PEFT trains, and the statistics of what it saves whole."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
        for name, buffer in theirs.named_buffers():
            if ".modules_to_save." in name and buffer.is_floating_point():
                buffer += torch.rand(buffer.shape, generator=generator)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Give the largest difference; as a share of the largest output where that is above one."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


def cases(names: Iterable[str], slow: Iterable[str]) -> list[Any]:
    """Give names for ``parametrize``, some of them marked as slow."""
    later = set(slow)
    assert later <= set(names), later - set(names)
    return [pytest.param(n, marks=pytest.mark.slow) if n in later else n for n in names]
