"""Tiny models whose layers differ in ways that a configuration must say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t

TEXT: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip
SLIDING, FULL = "sliding_attention", "full_attention"


def llama(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    return t.LlamaForCausalLM._from_config(t.LlamaConfig(**{**TEXT, **changes}), dtype=dtype)


def qwen3() -> Any:
    kinds = [FULL, SLIDING, FULL, SLIDING]
    config = t.Qwen3Config(
        **TEXT, head_dim=8, layer_types=kinds, use_sliding_window=True, sliding_window=3
    )
    return t.Qwen3ForCausalLM(config)


def gemma3() -> Any:
    kinds = [SLIDING, SLIDING, FULL, SLIDING]
    config = t.Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=3, layer_types=kinds)
    return t.Gemma3ForCausalLM(config)


def qwen2_moe() -> Any:
    config = t.Qwen2MoeConfig(
        **TEXT, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8,
        shared_expert_intermediate_size=8, mlp_only_layers=[1],
    )  # fmt: skip
    return t.Qwen2MoeForCausalLM(config)


def mixtral() -> Any:
    return t.MixtralForCausalLM(t.MixtralConfig(**TEXT, num_local_experts=3))


def smollm3() -> Any:
    return t.SmolLM3ForCausalLM(t.SmolLM3Config(**TEXT, no_rope_layers=[1, 1, 0, 1]))


def gpt2() -> Any:
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    return t.GPT2LMHeadModel(t.GPT2Config(vocab_size=40, n_embd=16, n_layer=4, n_head=4, **ids))


def t5() -> Any:
    config = t.T5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=4, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    return t.T5ForConditionalGeneration(config)


def bart() -> Any:
    config = t.BartConfig(
        vocab_size=40, d_model=16, encoder_layers=2, decoder_layers=3, encoder_ffn_dim=24,
        decoder_ffn_dim=24, encoder_attention_heads=4, decoder_attention_heads=4,
        max_position_embeddings=32, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    return t.BartForConditionalGeneration(config)


def vit() -> Any:
    return t.ViTForImageClassification(t.ViTConfig(**VISION, num_labels=3))


def clip() -> Any:
    text = {**TEXT, "num_hidden_layers": 3, "max_position_embeddings": 16}
    del text["num_key_value_heads"]
    config = t.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)
    return t.CLIPModel(config)


def llava() -> Any:
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION), text_config=t.LlamaConfig(**TEXT),
        image_token_index=5, vision_feature_layer=-1,
    )  # fmt: skip
    return t.LlavaForConditionalGeneration(config)


def bert() -> Any:
    plain = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
    return t.BertForMaskedLM(t.BertConfig(**plain))


def made(build: Callable[[], Any]) -> Any:
    """Give a model with weights drawn from one seed, biases among them."""
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    return model


def ids() -> torch.Tensor:
    return torch.arange(6).reshape(1, 6) % 30 + 3


def logits(model: Any) -> torch.Tensor:
    if hasattr(model.config, "vision_config") and "clip" in model.config.model_type:
        pixels = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
        return model(input_ids=ids(), pixel_values=pixels).logits_per_image
    if "vit" in model.config.model_type:
        return model(torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)).logits
    more = {"decoder_input_ids": ids()} if model.config.is_encoder_decoder else {}
    return model(input_ids=ids(), **more).logits


def answers(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return logits(model)


def generated(model: Any, cache: bool) -> torch.Tensor:
    return model.generate(ids(), max_new_tokens=6, do_sample=False, use_cache=cache)
