"""A model far larger than memory is walked, planned and operated on without a byte of weights."""

from __future__ import annotations

import pytest
import torch

import surgery

transformers = pytest.importorskip("transformers")
LINEARS = ["attention.q", "attention.k", "attention.v", "attention.proj"]
MLP = ["mlp.gate", "mlp.up", "mlp.down"]


def test_eighty_layers_of_70b_take_no_weight_memory() -> None:
    config = transformers.LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=128256, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    step = {"use": "lora", "at": {"role": LINEARS + MLP}, "with": {"rank": 16}, "expect": 560}
    planned = surgery.plan(model, [{"use": "freeze"}, step])
    assert planned.to_json()["parameters"]["before"] == 70_553_706_496
    assert not any("lora" in name for name, _ in model.named_parameters())
    applied = surgery.apply(model, [{"use": "freeze"}, step])
    assert len(applied.plan.added) == 2 * 560
    assert all(tensor.is_meta for tensor in model.parameters())
    assert applied.plan.to_json()["parameters"] == planned.to_json()["parameters"]
    applied.undo()
    assert not any("lora" in name for name, _ in model.named_parameters())
