"""Patients with tokenizers of every family, and what one step of an objective makes of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from surgery.operate.objective import Batch, Objective, Step
from surgery.operate.patient import Patient
from tests.tokens import kit

FAMILIES = kit.FAMILIES
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A template as most models carry it: nothing says what the assistant wrote."""

MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}</s>"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""The same text, with marks around what the assistant wrote."""

FORGETFUL = (
    "{% for m in messages %}{% if loop.last or m.role == 'user' %}<|{{ m.role }}|>"
    "{{ m.content }}</s>{% else %}<|assistant|>...</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""One that drops what earlier replies said, as templates of models that think aloud do."""


def causal(family: str = "byte-level", template: str | None = None) -> Patient:
    made = kit.patient(family)
    made.tokenizer.chat_template = template
    return made


def encoder() -> Patient:
    made = kit.tokenizer("word-piece")
    torch.manual_seed(0)
    model = BertModel(_config(made)).eval()
    return Patient(model, model.config, made)


def classifier(labels: Sequence[str] = ("cat", "dog", "owl")) -> Patient:
    made = kit.tokenizer("word-piece")
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    config = _config(made, id2label=names, label2id={v: k for k, v in names.items()})
    return Patient(model := BertForSequenceClassification(config).eval(), model.config, made)


def _config(made: Any, **more: Any) -> BertConfig:
    return BertConfig(
        vocab_size=len(made), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=24, pad_token_id=made.pad_token_id,
        initializer_range=0.3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **more,
    )  # fmt: skip


def encoded(objective: Objective, sample: Mapping[str, Any], patient: Patient) -> Any:
    return objective.encode(sample, patient, Random(0))


def batch(objective: Objective, samples: Sequence[Mapping[str, Any]], patient: Patient) -> Batch:
    return objective.collate([encoded(objective, one, patient) for one in samples], patient)


def step(objective: Objective, samples: Sequence[Mapping[str, Any]], patient: Patient) -> Step:
    return objective.step(patient.model, batch(objective, samples, patient))


def learned(row: Mapping[str, torch.Tensor], tokenizer: Any) -> str:
    """Give the text of the tokens that a row's labels ask for."""
    return str(tokenizer.decode(row["labels"][row["labels"] != -100]))
