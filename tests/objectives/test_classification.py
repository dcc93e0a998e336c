"""Laws of ``classification``: labels, heads, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from surgery.errors import RefusedError
from surgery.operate.patient import Patient
from surgery_plugins.objectives.classification import Classification
from tests.objectives import kit

SAMPLES = [
    {"text": "a cat on a mat", "label": "cat"},
    {"text": "segment the dog in the image", "label": "dog"},
    {"text": "where?", "label": 2},
]
HEAD = Classification()
TOKENS = Classification(labels=["cat", "dog", "owl"], output="states", pool="mean")


class Tagger(nn.Module):
    """Give one row of outputs for each token, under a name of its own."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.states = body, nn.Linear(16, 3)

    def forward(self, **inputs: Any) -> dict[str, torch.Tensor]:
        return {"states": self.states(self.body(**inputs).last_hidden_state)}


def test_the_loss_is_that_of_the_model_itself() -> None:
    patient = kit.classifier()
    batch = kit.batch(HEAD, SAMPLES, patient)
    assert batch["labels"].tolist() == [0, 1, 2]
    found = HEAD.step(patient.model, batch)
    wanted = patient.model(**batch["inputs"], labels=batch["labels"])
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-6)
    right = (wanted.logits.argmax(-1) == batch["labels"]).sum()
    assert found.metrics == {"accuracy": (right, 3)}
    assert HEAD.weight(batch) == 3.0


def test_padding_changes_no_logits() -> None:
    patient = kit.classifier()
    alone = [kit.step(HEAD, [one], patient).loss for one in SAMPLES]
    together = kit.step(HEAD, SAMPLES, patient).loss
    assert torch.allclose(torch.stack(alone).mean(), together, atol=1e-6)


def test_a_pair_is_one_input() -> None:
    patient, objective = kit.classifier(), Classification(pair="other")
    sample = {**SAMPLES[0], "other": "a dog"}
    row = kit.encoded(objective, sample, patient)["row"]
    wanted = patient.tokenizer("a cat on a mat", "a dog")
    assert {name: value.tolist() for name, value in row.items()} == dict(wanted)
    assert row["input_ids"].tolist().count(patient.tokenizer.sep_token_id) == 2


def test_a_linear_head_over_tokens_pools_as_over_their_mean() -> None:
    base = kit.encoder()
    model = Tagger(base.model)
    patient = Patient(model, base.config, base.tokenizer)
    assert TOKENS.refuse(patient) is None
    batch = kit.batch(TOKENS, SAMPLES, patient)
    states = base.model(**batch["inputs"]).last_hidden_state
    mask = batch["inputs"]["attention_mask"].bool()
    means = torch.stack([row[keep].mean(0) for row, keep in zip(states, mask, strict=True)])
    wanted = nn.functional.cross_entropy(model.states(means), batch["labels"])
    assert torch.allclose(TOKENS.step(model, batch).loss, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pool": None}, "pool: mean"), ({"output": "gone"}, "an output gone of texts x labels")],
)
def test_an_output_of_another_form_is_one_clear_error(
    options: dict[str, Any], message: str
) -> None:
    base = kit.encoder()
    patient = Patient(Tagger(base.model), base.config, base.tokenizer)
    objective = TOKENS.model_copy(update=options)
    with pytest.raises(RefusedError, match=message):
        kit.step(objective, SAMPLES, patient)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"text": "x"}, "one of 3 labels under 'label', got None"),
        ({"text": "x", "label": 3}, "got 3"),
        ({"text": "x", "label": -1}, "got -1"),
        ({"text": "x", "label": True}, "got True"),
        ({"text": "x", "label": 1.0}, "got 1.0"),
        ({"text": "x", "label": "owI"}, "did you mean 'owl'"),
        ({"text": "", "label": 1}, "a blank one"),
        ({"label": 1}, "the key 'text', got 'label'"),
        ({"text": "a cat on a mat " * 9, "label": 1}, "at most 24 tokens"),
    ],
)
def test_a_bad_sample_is_an_error(sample: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kit.encoded(HEAD, sample, kit.classifier())


def test_a_text_is_cut_only_where_the_recipe_says_so_and_keeps_its_special_tokens() -> None:
    patient = kit.classifier()
    objective = Classification(too_long="cut", max_tokens=5)
    ids = kit.encoded(objective, SAMPLES[0], patient)["row"]["input_ids"].tolist()
    tokenizer = patient.tokenizer
    assert (len(ids), ids[0], ids[-1]) == (5, tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_patients_that_cannot_be_trained_so_are_refused() -> None:
    whole, bare = kit.classifier(), kit.encoder()
    assert HEAD.refuse(whole) is None
    assert "no tokenizer" in str(HEAD.refuse(Patient(whole.model, whole.config)))
    five = Classification(labels=list("abcde"))
    assert "no layer with 5 outputs" in str(five.refuse(whole))
    assert "use: attach" in str(Classification(labels=["a", "b"]).refuse(bare))
    bare.config.id2label = {0: "one"}
    assert "it has 1 labels" in str(HEAD.refuse(bare))
    tagger = Patient(Tagger(bare.model), bare.config, bare.tokenizer)
    assert "did you mean 'states'" in str(
        TOKENS.model_copy(update={"output": "state"}).refuse(tagger)
    )
    two = TOKENS.model_copy(update={"labels": ["a", "b"]})
    assert "states has 3 outputs, and there are 2 labels" in str(two.refuse(tagger))
