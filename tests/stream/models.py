"""Tiny models of transformers, in folders of one file or of several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as t

TEXT: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip


def _llama(**changes: Any) -> Any:
    return t.LlamaForCausalLM(t.LlamaConfig(**{**TEXT, **changes}))


def _gpt2() -> Any:
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    return t.GPT2LMHeadModel(t.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=4, **ids))


def _t5() -> Any:
    config = t.T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4)
    return t.T5ForConditionalGeneration(config)


def _neox() -> Any:
    plain = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
    return t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**plain))


def _mixtral() -> Any:
    return t.MixtralForCausalLM(t.MixtralConfig(**TEXT, num_local_experts=3))


def _bert() -> Any:
    plain = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
    return t.BertForMaskedLM(t.BertConfig(**plain))


def _llava() -> Any:
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION), text_config=t.LlamaConfig(**TEXT),
        image_token_index=5, vision_feature_layer=-1,
    )  # fmt: skip
    return t.LlavaForConditionalGeneration(config)


def _opt() -> Any:
    return t.OPTForCausalLM(
        t.OPTConfig(
            vocab_size=40, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=4,
            word_embed_proj_dim=16, max_position_embeddings=32,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "llama tied": lambda: _llama(tie_word_embeddings=True),
    "llama bf16": lambda: _llama().to(torch.bfloat16),
    "gpt2 (Conv1D, tied)": _gpt2,
    "t5 (two towers, tied)": _t5,
    "gpt-neox (fused)": _neox,
    "opt": _opt,
    "bert": _bert,
    "mixtral (stacked on load)": _mixtral,
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**VISION, num_labels=3)),
    "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**VISION)),
    "llava": _llava,
}


def save(name: str, folder: Path, shards: bool) -> Path:
    """Write a model into a folder, in one file or in several."""
    torch.manual_seed(0)
    MODELS[name]().save_pretrained(folder, max_shard_size="6KB" if shards else "5GB")
    assert (len(list(folder.glob("*.safetensors"))) > 1) == shards
    return folder
