"""Tables of many architectures are found whole: heads, biases, ties, and what states their size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import surgery
from surgery import Patient, SurgeryError
from tests.tokens import kit

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
}
PAIR = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
}  # fmt: skip
STEP = {"use": "tokens", "with": {"add": ["[SEG]", "<p>"], "init": "pieces"}}


def _bart(rows: int) -> Any:
    return transformers.BartForConditionalGeneration(
        transformers.BartConfig(vocab_size=rows, max_position_embeddings=32, **PAIR)
    )


def _t5(rows: int) -> Any:
    config = transformers.T5Config(
        vocab_size=rows, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4
    )
    return transformers.T5ForConditionalGeneration(config)


def _gpt2(rows: int) -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=rows, n_embd=16, n_layer=1, n_head=4, n_positions=32)
    )


def _roberta(rows: int) -> Any:
    return transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(vocab_size=rows, max_position_embeddings=40, **SMALL)
    )


def _bert_alone(rows: int) -> Any:
    return transformers.BertModel(
        transformers.BertConfig(vocab_size=rows, max_position_embeddings=40, **SMALL)
    )


def _gemma(rows: int) -> Any:
    return transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(vocab_size=rows, head_dim=4, num_key_value_heads=2, **SMALL)
    )


MODELS: dict[str, Callable[[int], Any]] = {
    "bart": _bart, "t5": _t5, "gpt2": _gpt2, "roberta": _roberta, "bert": _bert_alone,
    "gemma2": _gemma,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_it_becomes_what_transformers_would_resize_it_to(name: str) -> None:
    made = kit.tokenizer()
    rows = len(made)
    torch.manual_seed(0)
    model, theirs = MODELS[name](rows).eval(), MODELS[name](rows).eval()
    theirs.resize_token_embeddings(rows + 2, mean_resizing=False)
    before = kit.bits(model)
    patient = Patient(model, model.config, made)
    applied = surgery.apply(patient, STEP)
    ours = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    assert ours == {n: tuple(t.shape) for n, t in theirs.state_dict().items()}
    assert model.config.to_dict() == theirs.config.to_dict()
    assert [len(n) for n in _ties(model)] == [len(n) for n in _ties(theirs)]
    assert vars(model).get("vocab_size", rows + 2) == rows + 2
    ids = torch.tensor([[rows, rows + 1, 5]])
    out = model(input_ids=ids, **({"decoder_input_ids": ids} if name in ("bart", "t5") else {}))
    if hasattr(out, "logits"):
        assert out.logits.shape[-1] == rows + 2
    applied.undo()
    assert kit.bits(model) == before


def _ties(model: Any) -> list[list[str]]:
    found: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    return list(found.values())


def test_a_slow_tokenizer_gets_tokens_and_no_more() -> None:
    made = transformers.ByT5Tokenizer()
    model = _gpt2(len(made))
    patient = Patient(model, model.config, made)
    surgery.apply(patient, STEP)
    assert patient.tokenizer.encode("is[SEG].", add_special_tokens=False).count(len(made)) == 1
    with pytest.raises(SurgeryError, match=r"a fast tokenizer \(tokenizer\.json\)"):
        surgery.apply(patient, {"use": "tokens", "with": {"rename": {"[SEG]": "<x>"}}})


def test_a_model_that_names_no_table_is_told_how() -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = torch.nn.Embedding(340, 8), torch.nn.Linear(8, 340)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.out(self.words(ids))

    patient = Patient(Plain(), None, kit.tokenizer(), inputs={"ids": torch.tensor([[1]])})
    with pytest.raises(SurgeryError, match="name the weights with a row for each token"):
        surgery.apply(patient, STEP)
    tables = ["words.weight", "out.weight", "out.bias"]
    surgery.apply(patient, {"use": "tokens", "with": {**STEP["with"], "tables": tables}})
    assert patient.model(torch.tensor([[341]])).shape[-1] == 342


@pytest.mark.parametrize(
    "first",
    [{"use": "lora", "with": {"rank": 2}}, {"use": "unfreeze", "with": {"rows": "3-5"}}],
    ids=["lora", "rows"],
)
def test_a_table_that_an_adapter_was_made_for_stays_as_it_is(first: dict[str, Any]) -> None:
    patient = kit.patient()
    surgery.apply(patient, {**first, "at": {"path": "model.embed_tokens"}})
    before = kit.bits(patient.model)
    with pytest.raises(SurgeryError, match="put `tokens` first"):
        surgery.apply(patient, STEP)
    assert kit.bits(patient.model) == before
    fresh = kit.patient()
    with pytest.raises(SurgeryError, match="put `tokens` first"):
        surgery.plan(fresh, [{**first, "at": {"path": "model.embed_tokens"}}, STEP])
    assert surgery.plan(fresh, [STEP, {**first, "at": {"path": "model.embed_tokens"}}]).added
