"""1-d tables: scaled through the configuration, bit-equal to a model built so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.errors import RefusedError, SurgeryError
from tests.rope import kit

SCALINGS: list[dict[str, Any]] = [
    {"context": 256},
    {"scaling": {"type": "linear", "factor": 4.0}},
    {"scaling": {"type": "dynamic", "factor": 4.0}},
    {"scaling": {"type": "yarn", "factor": 4.0}},
    {"scaling": {"type": "yarn", "beta_fast": 16.0, "attention_factor": 1.5}, "context": 128},
    {
        "scaling": {"type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "context": 512,
    },
]


def step(**options: Any) -> dict[str, Any]:
    return {"use": "rope", "with": options}


@pytest.mark.parametrize("options", SCALINGS, ids=lambda o: str(o)[:40])
def test_tables_are_those_of_a_fresh_model(options: dict[str, Any]) -> None:
    for model in (kit.llama(), kit.qwen2()):
        with surgery.apply(model, step(**options)):
            kit.assert_as_fresh(model)


def test_what_a_scaled_model_answers_is_what_a_fresh_one_with_its_weights_answers() -> None:
    model = kit.llama()
    ids = torch.arange(100)[None] % 50
    plain = model(ids).logits
    surgery.apply(model, step(scaling={"type": "yarn", "factor": 4.0}))
    fresh = type(model)(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model(ids).logits, fresh(ids).logits)
    assert not torch.equal(model(ids).logits, plain)


def test_a_scaled_model_is_planned_written_loaded_and_undone(tmp_path: Path) -> None:
    model = kit.round_trip(kit.llama(), step(scaling={"type": "yarn", "factor": 4.0}), tmp_path)
    assert model.config.max_position_embeddings == 256
    assert model.config.rope_parameters["original_max_position_embeddings"] == 64
    again = kit.transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "base",
        config=kit.transformers.AutoConfig.from_pretrained(tmp_path / "live-full"),
    )
    ids = torch.arange(100)[None] % 50
    assert torch.equal(model(ids).logits, again.eval()(ids).logits)


def test_a_cast_afterwards_leaves_the_table_in_float32() -> None:
    model = kit.llama()
    applied = surgery.apply(model, step(scaling={"type": "linear", "factor": 3.0}))
    wanted = model.model.rotary_emb.inv_freq.clone()
    model.to(torch.bfloat16)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(model.model.rotary_emb.inv_freq, wanted)
    applied.undo()
    model.half()
    assert model.model.rotary_emb.inv_freq.dtype == torch.float16


def test_without_hold_a_cast_rounds_it() -> None:
    model = kit.llama()
    surgery.apply(model, step(scaling={"type": "linear", "factor": 3.0}, hold=False))
    assert type(model.model.rotary_emb).__name__ == "LlamaRotaryEmbedding"
    model.to(torch.bfloat16)
    assert model.model.rotary_emb.inv_freq.dtype == torch.bfloat16


def test_tables_that_a_cast_rounded_are_mended_by_asking_for_the_same_size() -> None:
    model = kit.llama().to(torch.bfloat16)
    assert model.model.rotary_emb.inv_freq.dtype == torch.bfloat16
    surgery.apply(model, step(context=64))
    kit.assert_as_fresh(model)


def test_dynamic_scaling_grows_and_undo_gives_the_table_back() -> None:
    model = kit.llama()
    before, short = kit.bits(model), torch.arange(20)[None]
    answer = model(short).logits
    applied = surgery.apply(model, step(scaling={"type": "dynamic", "factor": 4.0}))
    model(torch.arange(200)[None] % 50)
    assert model.model.rotary_emb.max_seq_len_cached == 200
    applied.undo()
    assert kit.same_bits(before, kit.bits(model))
    assert torch.equal(model(short).logits, answer)


def test_each_kind_of_layers_has_its_own_table() -> None:
    model = kit.gemma3()
    scaling = {"type": "linear", "factor": 8.0}
    with pytest.raises(RefusedError, match="full_attention"):
        surgery.apply(model, step(scaling=scaling))
    local = model.model.rotary_emb.sliding_attention_inv_freq.clone()
    full = model.model.rotary_emb.full_attention_inv_freq.clone()
    with surgery.apply(model, step(scaling=scaling, layer_type="full_attention")):
        kit.assert_as_fresh(model)
        assert torch.equal(model.model.rotary_emb.sliding_attention_inv_freq, local)
        assert torch.equal(model.model.rotary_emb.full_attention_inv_freq, full / 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scaling": {"type": "linear"}}, "a factor or a context"),
        ({"scaling": {"type": "linear", "factor": 2.0}, "context": 256}, "at least 4"),
        ({"scaling": {"type": "linear"}, "context": 32}, "at least the 64 tokens"),
        ({"scaling": {"type": "yarn", "factor": 2.0}, "context": 32}, "scaling is for longer"),
        ({"scaling": {"type": "dynamic", "factor": 2.0}, "context": 256}, "no context"),
        ({"scaling": {"type": "dynamic"}}, "no factor"),
        ({"scaling": {"type": "llama3", "factor": 2.0}}, "published with 1.0 and 4.0"),
        ({"scaling": {"type": "linear", "factor": 2.0, "beta_fast": 1.0}}, "beta_fast"),
        ({"context": 128, "layer_type": "full_attention"}, "share one table"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, Any], message: str) -> None:
    model = kit.llama()
    before, config = kit.bits(model), model.config.to_dict()
    with pytest.raises(RefusedError, match=message):
        surgery.apply(model, step(**options))
    assert kit.same_bits(before, kit.bits(model))
    assert model.config.to_dict() == config


def test_a_model_without_rotary_tables_is_refused() -> None:
    with pytest.raises(RefusedError, match="one set of rope_parameters"):
        surgery.apply(kit.vit(), step(context=128))


@pytest.mark.parametrize(
    "options", [{}, {"image_size": 12, "context": 3}, {"image_size": [1, 2, 3]}, {"hold": False}]
)
def test_a_recipe_must_ask_for_one_thing(options: dict[str, Any]) -> None:
    with pytest.raises(SurgeryError, match="expected image_size"):
        surgery.plan(kit.llama(), step(**options))


def test_a_plan_changes_nothing() -> None:
    model = kit.llama()
    before, config = kit.bits(model), model.config.to_dict()
    plan = surgery.plan(model, step(scaling={"type": "linear", "factor": 2.0}))
    assert {row.name for _, row in plan.changed} == {
        "model.rotary_emb.inv_freq", "model.rotary_emb.original_inv_freq",
    }  # fmt: skip
    assert kit.same_bits(before, kit.bits(model))
    assert model.config.to_dict() == config


def test_the_part_of_a_composite_model_is_found() -> None:
    text = {**kit.SIZES, "model_type": "qwen2", "vocab_size": 50, "max_position_embeddings": 64}
    text["num_key_value_heads"] = 2
    config = kit.transformers.LlavaConfig(
        vision_config={**kit.VISION, "model_type": "clip_vision_model"},
        text_config=text,
        image_token_index=49,
    )
    model = kit.transformers.LlavaForConditionalGeneration(config).eval()
    surgery.apply(model, step(context=512))
    assert model.config.text_config.max_position_embeddings == 512
    kit.assert_as_fresh(model)
