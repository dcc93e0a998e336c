"""Laws of packing: no token is lost, none sees another sample's, and the loss stays what it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t
from hypothesis import given
from hypothesis import strategies as st

from surgery_plugins.objectives.causal_lm import CausalLm
from surgery_plugins.objectives.packing import bins, unpackable
from tests.objectives import kit
from tests.stream.models import MODELS, TEXT

SAMPLES = [{"t": text} for text in ("a cat on a mat", "segment the dog", "it", "where is it?")]
PLAIN = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
SMALL: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2}

PACKABLE: dict[str, Any] = {
    "llama": MODELS["llama"],
    "gpt2": MODELS["gpt2 (Conv1D, tied)"],
    "mixtral": MODELS["mixtral (stacked on load)"],
    "sliding window": lambda: t.MistralForCausalLM(t.MistralConfig(**TEXT, sliding_window=3)),
    "eager": lambda: t.LlamaForCausalLM._from_config(
        t.LlamaConfig(**TEXT), attn_implementation="eager"
    ),
}
MIXING: dict[str, Any] = {
    "opt, which counts places by its mask": MODELS["opt"],
    "falcon, which takes no hint of packing": lambda: t.FalconForCausalLM(
        t.FalconConfig(**SMALL, num_attention_heads=4)
    ),
    "bert": lambda: t.BertLMHeadModel(t.BertConfig(**PLAIN, is_decoder=True)),
    "a convolution between attentions": lambda: t.Lfm2ForCausalLM(
        t.Lfm2Config(**TEXT, layer_types=["conv", "full_attention"])
    ),
    "bloom, without positions": lambda: t.BloomForCausalLM(
        t.BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=4)
    ),
}


@given(st.integers(1, 40).flatmap(
    lambda room: st.tuples(st.just(room), st.lists(st.integers(1, room), max_size=30))
))  # fmt: skip
def test_bins_hold_everything_once_and_no_two_could_be_one(given: tuple[int, list[int]]) -> None:
    room, sizes = given
    found = bins(sizes, room)
    assert sorted(n for one in found for n in one) == list(range(len(sizes)))
    filled = [sum(sizes[n] for n in one) for one in found]
    assert all(fill <= room for fill in filled)
    assert all(a + b > room for i, a in enumerate(filled) for b in filled[:i])


def test_packed_samples_give_the_loss_and_gradients_of_samples_alone() -> None:
    patient = kit.causal()
    losses, grads = [], []
    for packing in (False, True):
        objective = CausalLm(text="t", packing=packing, max_tokens=24)
        batch = kit.batch(objective, SAMPLES, patient)
        patient.model.zero_grad()
        found = objective.step(patient.model, batch)
        found.loss.backward()
        losses.append(found.loss.item())
        grads.append(torch.cat([p.grad.flatten() for p in patient.model.parameters()]))
        weight = objective.weight(batch)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert torch.allclose(*grads, atol=1e-7)
    assert batch["input_ids"].shape[0] < len(SAMPLES)
    assert batch["input_ids"].shape[1] <= 24
    assert "attention_mask" not in batch
    alone = [kit.encoded(objective, one, patient) for one in SAMPLES]
    assert weight == sum(int((one["labels"] != -100).sum()) for one in alone)
    assert int((batch["position_ids"] == 1).sum()) == len(SAMPLES)


@pytest.mark.parametrize("name", PACKABLE)
def test_models_that_keep_samples_apart_are_taken(name: str) -> None:
    model = PACKABLE[name]().train()
    before = torch.random.get_rng_state()
    assert unpackable(model) is None
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("name", MIXING)
def test_models_in_which_samples_would_see_one_another_are_refused(name: str) -> None:
    why = unpackable(MIXING[name]())
    assert why is not None
    assert "see one another" in why


def test_the_objective_asks_the_model_only_where_it_packs() -> None:
    patient = kit.causal()
    patient.model = MIXING["opt, which counts places by its mask"]()
    assert CausalLm(text="t").refuse(patient) is None
    assert "packed" in str(CausalLm(text="t", packing=True).refuse(patient))


def test_a_model_without_values_is_asked_what_it_takes() -> None:
    with torch.device("meta"):
        assert unpackable(MODELS["llama"]()) is None
        assert "position_ids" in str(unpackable(MIXING["bloom, without positions"]()))
