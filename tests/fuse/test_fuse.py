"""Weights that are fused and taken apart: what must hold whatever the model."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t

import surgery
from surgery.errors import SurgeryError
from tests.layers import models
from tests.layers.models import answers, generated, made
from tests.rope import kit

FUSE, UNFUSE = {"use": "fuse"}, {"use": "unfuse"}
PLAIN = {key: value for key, value in models.TEXT.items() if key != "num_key_value_heads"}


def qwen2() -> Any:
    return t.Qwen2ForCausalLM(t.Qwen2Config(**models.TEXT))


def phi3() -> Any:
    return t.Phi3ForCausalLM(t.Phi3Config(**models.TEXT))


def neox() -> Any:
    return t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**PLAIN))


def whisper() -> Any:
    sizes = {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    }  # fmt: skip
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = t.WhisperConfig(
        **sizes, **ids, vocab_size=40, num_mel_bins=4, max_source_positions=6,
        max_target_positions=8,
    )  # fmt: skip
    return t.WhisperModel(config)


SPLIT = {
    "llama": models.llama, "qwen2 (biases)": qwen2, "gemma3": models.gemma3, "t5": models.t5,
    "clip": models.clip, "vit": models.vit, "bert": models.bert, "qwen3": models.qwen3,
}  # fmt: skip
WHOLE = {"phi3": phi3, "gpt2": models.gpt2, "neox (interleaved)": neox}


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


FAST = ("llama", "qwen2 (biases)", "t5", "clip")
OFTEN = [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in SPLIT]


@pytest.mark.parametrize("name", OFTEN)
def test_fused_models_answer_alike_and_undo_is_exact(name: str) -> None:
    model = made(SPLIT[name])
    before, bits = answers(model), kit.bits(model)
    with surgery.apply(model, FUSE):
        assert close(answers(model), before)
        if hasattr(model, "generate") and name not in ("clip", "bert"):
            assert torch.equal(generated(model, True), generated(model, False))
        names = [n.rpartition(".")[0] for n, _ in model.named_parameters()]
        assert not any(n.endswith(("q_proj", ".k", ".query", "gate_proj")) for n in names)
    assert kit.same_bits(bits, kit.bits(model))
    assert torch.equal(answers(model), before)


def test_rows_are_carried_exactly_and_are_as_many_as_the_heads() -> None:
    model = made(qwen2)
    old = model.model.layers[1].self_attn
    parts = [old.q_proj, old.k_proj, old.v_proj]
    with surgery.apply(model, FUSE):
        fused = model.model.layers[1].self_attn.qkv_proj
        assert fused.weight.shape == (16 + 8 + 8, 16)
        assert torch.equal(fused.weight, torch.cat([part.weight for part in parts]))
        assert torch.equal(fused.bias, torch.cat([part.bias for part in parts]))
        mlp = model.model.layers[1].mlp
        assert mlp.gate_up_proj.weight.shape == (48, 16)
        again = model.model.layers[1].self_attn
        assert torch.equal(again.k_proj.weight, parts[1].weight)
        assert torch.equal(again.k_proj.bias, parts[1].bias)
        assert (again.v_proj.out_features, again.v_proj.in_features) == (8, 16)


def test_one_product_serves_all_parts_of_a_forward() -> None:
    model = made(models.llama)
    with surgery.apply(model, FUSE):
        calls = []
        attention = model.model.layers[0].self_attn
        attention.qkv_proj.register_forward_hook(lambda *_: calls.append(1))
        answers(model)
        assert calls == [1]
        x = torch.randn(1, 3, 16)
        first = attention.q_proj(x)
        x.mul_(2)  # what was written to is computed anew
        assert close(attention.q_proj(x), first * 2)


def test_a_cross_attention_fuses_what_is_given_the_same() -> None:
    model = made(models.t5)
    with surgery.apply(model, FUSE):
        cross = dict(model.decoder.block[0].layer[1].EncDecAttention.named_children())
        own = dict(model.decoder.block[0].layer[0].SelfAttention.named_children())
    assert {"q", "kv_proj", "o"} <= set(cross)
    assert "qkv_proj" in own


def test_gradients_reach_the_fused_rows() -> None:
    model, twin = made(models.llama), made(models.llama)
    with surgery.apply(model, FUSE):
        for one in (model, twin):
            one(models.ids(), labels=models.ids()).loss.backward()
        fused = model.model.layers[2].self_attn.qkv_proj.weight.grad
        old = twin.model.layers[2].self_attn
        parts = [part.weight.grad for part in (old.q_proj, old.k_proj, old.v_proj)]
        assert fused is not None
        assert torch.allclose(fused, torch.cat(parts), rtol=1e-3, atol=1e-6)
        copy = deepcopy(model)
        assert torch.equal(answers(copy), answers(model))


def test_later_steps_see_a_fused_weight_and_its_rows() -> None:
    model = made(models.llama)
    before = answers(model)
    lora = {"use": "lora", "at": {"role": ["attention.q", "attention.v"]}, "with": {"rank": 2}}
    with surgery.apply(model, [FUSE, {"use": "freeze"}, lora]) as applied:
        site = applied.plan.steps[2].sites[0]
        assert site.path.endswith("self_attn.qkv_proj")
        assert site.rows == {"attention.q": ((0, 16),)}
        assert close(answers(model), before)


@pytest.mark.parametrize("name", WHOLE)
def test_models_with_whole_weights_answer_alike_when_they_are_taken_apart(name: str) -> None:
    model = made(WHOLE[name])
    before, bits = answers(model), kit.bits(model)
    with surgery.apply(model, UNFUSE):
        assert close(answers(model), before)
        assert torch.equal(generated(model, True), generated(model, False))
        roles = [site.roles for site in surgery.walk(model) if site.path.endswith(".k_proj")]
        assert roles == [frozenset({"attention.k"})] * 4
    assert kit.same_bits(bits, kit.bits(model))


def test_interleaved_rows_are_told_apart() -> None:
    model = made(neox)
    old = model.gpt_neox.layers[0].attention.query_key_value.weight.clone()
    with surgery.apply(model, UNFUSE):
        part = model.gpt_neox.layers[0].attention.query_key_value.k_proj.weight
        assert torch.equal(part, old.reshape(4, 3, 4, 16)[:, 1].reshape(16, 16))


@pytest.mark.parametrize("name", ["llama", "qwen2 (biases)", "t5"])
def test_unfuse_takes_back_what_fuse_did(name: str) -> None:
    model = made(SPLIT[name])
    old = {n: p.clone() for n, p in model.named_parameters()}
    before = answers(model)
    with surgery.apply(model, [FUSE, UNFUSE | {"overlap": True}]):
        new = dict(model.named_parameters())
        assert new.keys() == old.keys()
        assert all(torch.equal(new[n], old[n]) for n in old)
        assert torch.equal(answers(model), before)
        assert not any("Fused" in type(module).__name__ for module in model.modules())


def test_a_part_without_a_bias_gets_zeros_when_asked() -> None:
    model = made(whisper)
    with pytest.raises(SurgeryError, match="zeros: true"):
        surgery.apply(model, FUSE)
    inputs = {"input_features": torch.randn(1, 4, 12), "decoder_input_ids": models.ids()}
    with torch.no_grad():
        before = model(**inputs).last_hidden_state
        with surgery.apply(model, {**FUSE, "with": {"zeros": True}}):
            bias = model.encoder.layers[0].self_attn.qkv_proj.bias
            assert not bias[16:32].any()
            assert close(model(**inputs).last_hidden_state, before)


TRIPS: dict[str, tuple[Callable[[], Any], Any]] = {
    "llama fuse": (models.llama, FUSE),
    "gpt2 unfuse": (models.gpt2, UNFUSE),
    "gemma3 fuse": (models.gemma3, FUSE),
    "t5 fuse": (models.t5, FUSE),
    "llava fuse": (models.llava, FUSE),
    "phi3 unfuse": (phi3, UNFUSE),
    "neox unfuse": (neox, UNFUSE),
    "bf16 fuse": (lambda: models.llama(dtype=torch.bfloat16), FUSE),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(TRIPS)[2:]]


@pytest.mark.parametrize("name", [*list(TRIPS)[:2], *SLOW])
def test_live_streamed_loaded_and_replayed_are_equal(name: str, tmp_path: Path) -> None:
    build, step = TRIPS[name]
    model = made(build)
    model.save_pretrained(tmp_path / "base")
    with surgery.apply(model, step) as applied:
        assert all(pickle.dumps(slot.value) for slot in applied.plan.slots.values())
        for way in ("live", "stream"):
            out = kit._applied(step, tmp_path, f"{way}-changed", {})
            loaded = surgery.load(out)
            kit._assert_equal(loaded.model, model)
        kit._assert_equal_files(tmp_path / "live-changed", tmp_path / "stream-changed")
    loaded.undo()
    kit._assert_equal(loaded.model, model)
    kit.run("undo", tmp_path / "stream-changed", "--into", tmp_path / "undone", "--quiet")
    kit._assert_equal(type(model).from_pretrained(tmp_path / "undone", dtype="auto"), model)


def test_a_whole_model_that_its_class_does_not_know_is_refused(tmp_path: Path) -> None:
    made(models.llama).save_pretrained(tmp_path / "base")
    with pytest.raises(SurgeryError, match="save: changed"):
        kit._applied(FUSE, tmp_path, "stream-full", {})
    assert not (tmp_path / "stream-full").exists()


LORA = {"use": "lora", "at": {"path": "**.q_proj"}}
REFUSED: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "nothing to fuse": (models.gpt2, FUSE, "sites that fuse can operate on"),
    "alone": (models.llama, {**FUSE, "at": {"role": "attention.q"}}, "parts that are given one"),
    "taken": (models.llama, {**FUSE, "with": {"into": "o_proj"}}, "a free name"),
    "adapted": (models.llama, [LORA, {**FUSE, "overlap": True}], "was extended"),
    "frozen in part": (
        models.llama, [{"use": "freeze", "at": {"path": "**.k_proj"}}, {**FUSE, "overlap": True}],
        "all train",
    ),
    "nothing to take apart": (models.llama, UNFUSE, "sites that unfuse can operate on"),
    "some rows": (phi3, {**UNFUSE, "at": {"role": "attention.q"}}, "only some of its rows"),
    "wrong sizes": (
        phi3, {**UNFUSE, "at": {"path": "**.qkv_proj"}, "with": {"sizes": {"q": 16, "k": 8}}},
        "each of 32 rows in one part",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_with_the_reason(name: str) -> None:
    build, steps, reason = REFUSED[name]
    model = made(build)
    before = kit.bits(model)
    with pytest.raises(SurgeryError, match=reason):
        surgery.apply(model, steps)
    assert kit.same_bits(before, kit.bits(model))


def test_named_sizes_take_any_weight_apart() -> None:
    model = made(phi3)
    before = answers(model)
    sizes = {"q": 16, "k": 8, "v": 8}
    step = {**UNFUSE, "at": {"path": "**.qkv_proj"}, "with": {"sizes": sizes}}
    with surgery.apply(model, step):
        held = model.model.layers[0].self_attn.qkv_proj
        assert {n: m.out_features for n, m in held.named_children()} == sizes
        assert close(answers(model), before)
