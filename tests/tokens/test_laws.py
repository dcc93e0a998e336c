"""Laws of the surgery ``tokens``: together or not at all, and back to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import surgery
from surgery import Patient, SurgeryError
from surgery_plugins.sources.hf import HfSource
from tests.tokens import kit

SEG = {"use": "tokens", "with": {"add": ["[SEG]", {"content": "<p>", "init": "pieces"}]}}
FAMILIES = pytest.mark.parametrize("family", kit.FAMILIES)
CONTEXTS = ("{} is here", "it is {} here", "is{}", "it is {}.", "{}{}")


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def stated(patient: Patient) -> str:
    return f"{patient.config} {getattr(patient.model, 'generation_config', None)}"


@FAMILIES
def test_a_new_token_is_one_id_wherever_it_stands(family: str) -> None:
    patient = kit.patient(family)
    surgery.apply(patient, SEG)
    for token in ("[SEG]", "<p>"):
        number = patient.tokenizer.convert_tokens_to_ids(token)
        for context in CONTEXTS:
            found = ids_of(patient.tokenizer, context.replace("{}", token))
            assert found.count(number) == context.count("{}"), context


@FAMILIES
def test_everything_changes_together(family: str) -> None:
    patient = kit.patient(family)
    before = len(patient.tokenizer)
    made = surgery.apply(patient, SEG)
    model = patient.model
    assert len(patient.tokenizer) == before + 2 == patient.config.vocab_size
    assert model.get_input_embeddings().weight.shape[0] == before + 2
    assert model.get_input_embeddings().num_embeddings == before + 2
    assert model.get_output_embeddings().weight.shape[0] == before + 2
    assert model.get_output_embeddings().out_features == before + 2
    assert {c.status for c in made.checks} <= {"passed", "skipped", "warned"}
    assert [c.status for c in made.checks if "one id each" in c.name] == ["passed"]
    logits = model(torch.tensor([[before, before + 1, 3]])).logits
    assert logits.shape[-1] == before + 2


@FAMILIES
def test_undo_gives_the_exact_bits_and_the_same_tokenizer(family: str) -> None:
    patient = kit.patient(family)
    before, tokenizer = kit.bits(patient.model), patient.tokenizer
    said = stated(patient)
    tables = patient.model.get_input_embeddings().weight, tokenizer.backend_tokenizer.to_str()
    made = surgery.apply(patient, [SEG, {"use": "tokens", "with": {"pad_to_multiple_of": 64}}])
    assert kit.bits(patient.model) != before
    made.undo()
    assert kit.bits(patient.model) == before
    assert patient.tokenizer is tokenizer
    assert tables[0] is patient.model.get_input_embeddings().weight
    assert tables[1] == tokenizer.backend_tokenizer.to_str()
    assert stated(patient) == said


@FAMILIES
@pytest.mark.parametrize("tied", [True, False])
def test_old_tokens_answer_as_before(family: str, tied: bool) -> None:
    patient = kit.patient(family, tied=tied)
    rows = patient.config.vocab_size
    ids = torch.arange(2, 34)[None] % rows
    with torch.no_grad():
        before = patient.model(ids).logits
        surgery.apply(patient, SEG)
        after = patient.model(ids).logits
    assert after.shape[-1] == rows + 2
    assert torch.allclose(after[..., :rows], before, atol=1e-6, rtol=0)
    hidden = patient.model.get_input_embeddings()(ids)
    assert hidden.shape == (1, 32, 16)


@pytest.mark.parametrize("tied", [True, False])
def test_ties_hold_and_heads_of_their_own_stay_so(tied: bool) -> None:
    patient = kit.patient(tied=tied)
    surgery.apply(patient, SEG)
    model: Any = patient.model
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_a_plan_touches_nothing_and_says_tokens_ids_and_rows() -> None:
    patient = kit.patient()
    before = kit.bits(patient.model)
    said = patient.config.to_json_string(), patient.tokenizer
    plan = surgery.plan(patient, SEG)
    assert kit.bits(patient.model) == before
    assert (patient.config.to_json_string(), patient.tokenizer) == said
    (text,) = plan.to_json()["tokenizer"]
    rows = patient.config.vocab_size
    assert f"{rows} tokens -> {rows + 2}, {rows} rows -> {rows + 2}" in text
    assert f"'[SEG]' ({rows}," in text
    assert f"'<p>' ({rows + 1}," in text
    assert plan.to_json()["config"] == {"vocab_size": rows + 2}


@FAMILIES
def test_a_saved_operation_is_replayed_bit_for_bit(family: str, tmp_path: Path) -> None:
    patient = kit.patient(family)
    made = surgery.apply(patient, SEG, seed=3)
    made.save(tmp_path / "out")
    again = kit.patient(family)
    loaded = surgery.load(tmp_path / "out", again)
    assert kit.bits(again.model) == kit.bits(patient.model)
    assert again.tokenizer.get_vocab() == patient.tokenizer.get_vocab()
    assert loaded.journal.steps == made.journal.steps
    assert [len(step.sites) for step in made.journal.steps] == [2]


@pytest.mark.parametrize("family", ["byte-level", "legacy-llama", "word-piece"])
def test_a_recipe_gives_a_folder_that_everybody_reads(family: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from tests.flow.conftest import write_recipe

    patient = kit.patient(family)
    base = tmp_path / "base"
    patient.model.save_pretrained(base)
    patient.tokenizer.save_pretrained(base)
    stale = {"pad_token": patient.tokenizer.pad_token}
    (base / "special_tokens_map.json").write_text(json.dumps(stale))
    step = {"use": "tokens", "with": {**SEG["with"], "assign": {"pad_token": "<p>"}}}
    recipe = write_recipe(tmp_path / "recipe.yaml", surgeries=[step])
    from surgery.cli import main

    assert main(["apply", str(recipe), "--quiet"]) == 0
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    rows = patient.config.vocab_size
    assert read.convert_tokens_to_ids(["[SEG]", "<p>"]) == [rows, rows + 1]
    assert (read.pad_token, read.pad_token_id) == ("<p>", rows + 1)
    loaded = surgery.load(tmp_path / "out")
    direct = HfSource(path=str(base)).load()
    surgery.apply(direct, step)
    assert kit.bits(loaded.model) == kit.bits(direct.model)
    assert loaded.patient.tokenizer.get_vocab() == read.get_vocab()
    assert loaded.patient.config.pad_token_id == rows + 1
    assert main(["doctor", "tokenizer", str(tmp_path / "out"), "--weights"]) == 0


@settings(max_examples=12, deadline=None)
@given(st.permutations(["[SEG]", "<p>", "<vp>", "<obj>"]), st.sampled_from(["normal", "pieces"]))
def test_a_rows_values_depend_on_no_other_token(order: list[str], init: str) -> None:
    def rows(tokens: list[str]) -> dict[str, torch.Tensor]:
        patient = kit.patient()
        surgery.apply(patient, {"use": "tokens", "with": {"add": tokens, "init": init}})
        table = patient.model.get_input_embeddings().weight
        return {t: table[patient.tokenizer.convert_tokens_to_ids(t)].detach() for t in tokens}

    all_of_them, one = rows(order), rows(order[-1:])
    assert torch.equal(all_of_them[order[-1]], one[order[-1]])


def test_a_failure_leaves_no_trace() -> None:
    patient = kit.patient("legacy-llama")
    before, tokenizer = kit.bits(patient.model), patient.tokenizer
    said = patient.config.to_json_string()
    misses = {"use": "tokens", "with": {"add": [{"content": "[SEG]", "normalized": True}]}}
    with pytest.raises(SurgeryError, match=r"'\[SEG\]' glued to a word is not found"):
        surgery.apply(patient, misses)
    assert kit.bits(patient.model) == before
    assert patient.tokenizer is tokenizer
    assert patient.config.to_json_string() == said


def test_a_composite_model_changes_its_text_part_alone() -> None:
    made = kit.tokenizer()
    made.add_tokens(["<image>"], special_tokens=True)
    model = kit.llava(made, made.convert_tokens_to_ids("<image>"))
    patient = Patient(model, model.config, made)
    rows = model.config.text_config.vocab_size
    before = {n: b for n, b in kit.bits(model).items() if "vision" in n}
    surgery.apply(patient, SEG)
    assert model.config.text_config.vocab_size == rows + 2
    assert model.get_input_embeddings().weight.shape[0] == rows + 2
    assert {n: b for n, b in kit.bits(model).items() if "vision" in n} == before
    out = model(input_ids=torch.tensor([[rows, rows + 1, 5]]))
    assert out.logits.shape[-1] == rows + 2
