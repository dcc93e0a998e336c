"""Modules that hold the id of padding follow it, unless positions are counted from it."""

from __future__ import annotations

import pytest

from surgery import Patient
from surgery_plugins.surgeries.tokens.ids import padding_edits

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
         "num_attention_heads": 2, "pad_token_id": 1}  # fmt: skip


def test_embedding_and_model_follow() -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    edits = list(padding_edits(Patient(model, config=model.config), ["model.embed_tokens"], 9))
    assert {edit.name: edit.value for edit in edits} == {
        "model.padding_idx": 9, "model.embed_tokens.padding_idx": 9
    }  # fmt: skip


def test_positions_that_are_counted_from_padding_stay() -> None:
    model = transformers.RobertaModel(transformers.RobertaConfig(**SIZES))
    patient = Patient(model, config=model.config)
    assert list(padding_edits(patient, ["embeddings.word_embeddings"], 9)) == []


def test_a_model_that_had_none_gets_it() -> None:
    sizes = {**SIZES, "pad_token_id": None}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    patient = Patient(model, config=model.config)
    names = {edit.name for edit in padding_edits(patient, ["model.embed_tokens"], 9)}
    assert names == {"model.padding_idx", "model.embed_tokens.padding_idx"}
