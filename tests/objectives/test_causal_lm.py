"""Laws of ``causal-lm``: what is learned, what is not, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from surgery.operate.patient import Patient
from surgery_plugins.objectives.causal_lm import CausalLm
from tests.objectives import kit

CHAT = [
    {"role": "user", "content": "segment the cat"},
    {"role": "assistant", "content": "a mask"},
    {"role": "user", "content": "where is it?"},
    {"role": "assistant", "content": "on a mat"},
]
COMPLETION = CausalLm(prompt="ask", completion="answer")
PAIR = {"ask": "segment the cat", "answer": " on a mat"}
TEXTS = [{"t": "a cat on a mat"}, {"t": "segment the dog"}, {"t": "it"}]


@pytest.mark.parametrize("family", [one for one in kit.FAMILIES if one != "word-piece"])
def test_of_a_completion_just_its_tokens_and_the_end_are_learned(family: str) -> None:
    patient = kit.causal(family)
    tokenizer = patient.tokenizer
    row = kit.encoded(COMPLETION, PAIR, patient)
    wanted = tokenizer(PAIR["answer"], add_special_tokens=False)["input_ids"]
    count = len(wanted) + 1
    assert row["labels"][-count:].tolist() == [*wanted, tokenizer.eos_token_id]
    assert bool((row["labels"][:-count] == -100).all())
    assert row["input_ids"][:-count].tolist() == tokenizer(PAIR["ask"])["input_ids"]
    without = kit.encoded(COMPLETION.model_copy(update={"end": False}), PAIR, patient)
    assert without["labels"].tolist() == row["labels"][:-1].tolist()


@pytest.mark.parametrize("template", [kit.CHATML, kit.MARKED], ids=["plain", "marked"])
@pytest.mark.parametrize("family", ["byte-level", "legacy-llama"])
def test_of_a_chat_just_the_replies_and_their_ends_are_learned(family: str, template: str) -> None:
    patient = kit.causal(family, template)
    row = kit.encoded(CausalLm(messages="chat"), {"chat": CHAT}, patient)
    assert row["input_ids"].tolist() == patient.tokenizer.apply_chat_template(CHAT)["input_ids"]
    assert kit.learned(row, patient.tokenizer).replace(" ", "") == "amask</s>onamat</s>"


@pytest.mark.parametrize(
    ("learn", "found"), [("last", "onamat</s>"), ("all", "|user|>segmentthecat</s>\n<|assistant|>")]
)
def test_the_last_reply_alone_or_every_token_may_be_learned(learn: Any, found: str) -> None:
    patient = kit.causal(template=kit.CHATML)
    row = kit.encoded(CausalLm(messages="chat", learn=learn), {"chat": CHAT}, patient)
    text = kit.learned(row, patient.tokenizer).replace(" ", "")
    assert text.startswith(found)
    assert text.count("</s>") == (1 if learn == "last" else 4)


def test_a_template_that_forgets_earlier_replies_is_never_guessed_at() -> None:
    patient = kit.causal(template=kit.FORGETFUL)
    with pytest.raises(ValueError, match="one that rewrites it; write `learn: last`"):
        kit.encoded(CausalLm(messages="chat"), {"chat": CHAT}, patient)
    row = kit.encoded(CausalLm(messages="chat", learn="last"), {"chat": CHAT}, patient)
    assert kit.learned(row, patient.tokenizer).replace(" ", "") == "onamat</s>"


def test_tools_reach_the_template() -> None:
    patient = kit.causal(template="{% if tools %}{{ tools[0].name }}{% endif %}" + kit.CHATML)
    objective = CausalLm(messages="chat", tools="tools")
    plain = kit.encoded(objective, {"chat": CHAT}, patient)
    row = kit.encoded(objective, {"chat": CHAT, "tools": [{"name": "zoom"}]}, patient)
    assert patient.tokenizer.decode(row["input_ids"]).startswith("zoom<|user|>")
    assert len(row["input_ids"]) > len(plain["input_ids"])
    assert kit.learned(row, patient.tokenizer) == kit.learned(plain, patient.tokenizer)


def test_the_loss_is_that_of_the_model_itself() -> None:
    patient, objective = kit.causal(), CausalLm(text="t")
    batch = kit.batch(objective, TEXTS, patient)
    found = objective.step(patient.model, batch)
    wanted = patient.model(**batch).loss
    assert found.loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert found.bounds == (0.0, None)
    right, count = found.metrics["accuracy"]
    assert 0 <= int(right) <= count == objective.weight(batch)
    bits, _ = found.metrics["bits_per_token"]
    assert float(bits) / count == pytest.approx(wanted.item() / 0.6931472, rel=1e-5)


def test_samples_count_by_their_tokens_however_a_batch_is_split() -> None:
    patient, objective = kit.causal(), CausalLm(text="t")
    whole = kit.batch(objective, TEXTS, patient)
    parts = [kit.batch(objective, [one], patient) for one in TEXTS]
    weights = [objective.weight(part) for part in parts]
    assert sum(weights) == objective.weight(whole)
    losses = [objective.step(patient.model, part).loss.item() for part in parts]
    mean = sum(a * b for a, b in zip(losses, weights, strict=True)) / sum(weights)
    assert objective.step(patient.model, whole).loss.item() == pytest.approx(mean, rel=1e-5)


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"text": "t"}, {}, "expected the key 't'"),
    ({"text": "t"}, {"t": " \n"}, "a blank one"),
    ({"text": "t"}, {"t": 3}, "expected a text under 't', got int"),
    ({"text": "t", "end": False}, {"t": "x"}, "a token to learn"),
    ({"text": "t", "max_tokens": 3}, {"t": "a cat on a mat"}, "at most 3 tokens, got "),
    ({"text": "t"}, {"t": "a cat on a mat" * 20}, "at most 64 tokens"),
    ({"prompt": "a", "completion": "b"}, {"a": "x", "b": ""}, "under 'b', got a blank one"),
    ({"prompt": "a", "completion": "b"}, {"b": "x"}, "expected the key 'a', got 'b'"),
    ({"messages": "c"}, {"c": "hello"}, "a list of messages under 'c', got str"),
    ({"messages": "c"}, {"c": []}, "a list of messages"),
    ({"messages": "c"}, {"c": [{"content": "x"}]}, "a role as message 0"),
    ({"messages": "c"}, {"c": CHAT[:1]}, "of the role assistant, got user"),
    ({"messages": "c", "max_tokens": 9, "too_long": "cut"}, {"c": CHAT}, "a token to learn"),
]


@pytest.mark.parametrize(("options", "sample", "message"), BAD)
def test_a_sample_that_teaches_nothing_is_an_error(
    options: dict[str, Any], sample: dict[str, Any], message: str
) -> None:
    patient = kit.causal(template=kit.CHATML)
    with pytest.raises(ValueError, match=message):
        kit.encoded(CausalLm(**options), sample, patient)


def test_what_a_template_refuses_is_the_samples_fault() -> None:
    patient = kit.causal(template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="fits the chat template, got roles must alternate"):
        kit.encoded(CausalLm(messages="c"), {"c": CHAT}, patient)


def test_a_tokenizer_of_another_model_is_found_before_the_forward() -> None:
    patient = kit.causal()
    patient.config.vocab_size = 20
    with pytest.raises(ValueError, match="below 20, the rows of the model's vocabulary"):
        kit.encoded(CausalLm(text="t"), TEXTS[0], patient)


def test_a_long_sample_is_cut_only_where_the_recipe_says_so() -> None:
    patient = kit.causal()
    row = kit.encoded(CausalLm(text="t", max_tokens=3, too_long="cut"), TEXTS[0], patient)
    assert len(row["input_ids"]) == 3


@pytest.mark.parametrize(
    "options",
    [
        {}, {"text": "a", "completion": "b"}, {"text": "a", "prompt": "b"},
        {"text": "a", "tools": "b"}, {"text": "a", "learn": "some"}, {"text": "a", "max": 3},
        {"text": "a", "max_tokens": "12"},
    ],
)  # fmt: skip
def test_options_that_contradict_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CausalLm(**options)


def test_patients_that_cannot_be_trained_so_are_refused() -> None:
    chat, text = CausalLm(messages="m"), CausalLm(text="t")
    whole = kit.causal(template=kit.CHATML)
    assert chat.refuse(whole) is None
    assert text.refuse(whole) is None
    model, config, tokenizer = whole.model, whole.config, whole.tokenizer
    assert "no tokenizer" in str(text.refuse(Patient(model, config)))
    assert "no head" in str(text.refuse(Patient(model.model, config, tokenizer)))
    assert "no chat template" in str(chat.refuse(kit.causal()))
    assert "no end of text" in str(text.refuse(kit.causal("word-piece")))
    linear = Patient(torch.nn.Linear(2, 2), None, tokenizer)
    assert "no head over a vocabulary" in str(text.refuse(linear))
