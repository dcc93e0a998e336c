"""Heads: new classes, rows that stay, and fresh values as the class draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import IntegrityError, RefusedError, SurgeryError
from tests.rope import kit

T = kit.transformers
NAMES = ["cat", "dog", "owl"]


def step(at: Any = None, **options: Any) -> dict[str, Any]:
    return {"use": "head", "with": options, **({"at": at} if at else {})}


def roberta() -> Any:
    torch.manual_seed(0)
    return T.RobertaForSequenceClassification(T.RobertaConfig(vocab_size=50, **kit.SIZES)).eval()


@pytest.mark.parametrize("build", [kit.vit, kit.dinov2, roberta])
def test_a_classifier_gets_labels_and_the_configuration_their_names(build: Any) -> None:
    model = build()
    before, config = kit.bits(model), model.config.to_dict()
    applied = surgery.apply(model, step(labels=NAMES))
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert model.config.label2id == {"cat": 0, "dog": 1, "owl": 2}
    assert model.config.num_labels == 3
    kit.assert_as_fresh(model)
    changed = {name.rpartition(".")[2] for _, row in applied.plan.changed for name in (row.name,)}
    assert changed == {"weight", "bias"}
    applied.undo()
    assert kit.same_bits(before, kit.bits(model))
    assert model.config.to_dict() == config


def test_a_head_is_drawn_as_its_class_draws_it() -> None:
    model = kit.vit(initializer_range=0.5, hidden_size=64)
    surgery.apply(model, step(labels=500))
    assert 0.48 < model.classifier.weight.std() < 0.52
    assert not model.classifier.bias.any()
    plain = kit.vit(initializer_range=0.5, hidden_size=64, num_labels=500)
    assert abs(plain.classifier.weight.std() - model.classifier.weight.std()) < 0.02


def test_the_seed_alone_decides_what_is_drawn() -> None:
    weights = []
    for noise, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(noise)
        model = kit.vit()
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        surgery.apply(model, step(labels=4), seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        weights.append(model.classifier.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_rows_of_labels_that_stay_are_carried_by_name() -> None:
    model = kit.vit(id2label={0: "cat", 1: "dog", 2: "owl"}, label2id={})
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    old, bias = model.classifier.weight.detach().clone(), model.classifier.bias.detach().clone()
    surgery.apply(model, step(labels=["owl", "emu", "cat", "fox"], carry=True))
    assert torch.equal(model.classifier.weight[[0, 2]], old[[2, 0]])
    assert torch.equal(model.classifier.bias[[0, 2]], bias[[2, 0]])
    assert not model.classifier.bias[[1, 3]].any()
    assert model.classifier.weight[[1, 3]].abs().max() < 0.2
    kit.assert_as_fresh(model)


def test_as_many_labels_in_another_order_are_carried_too() -> None:
    model = kit.vit(id2label=dict(enumerate(NAMES)), label2id={})
    old = model.classifier.weight.detach().clone()
    surgery.apply(model, step(labels=["dog", "owl", "cat"], carry=True))
    assert torch.equal(model.classifier.weight, old[[1, 2, 0]])
    surgery.apply(model, step(labels=["dog", "owl", "cat"]))
    assert not torch.equal(model.classifier.weight, old[[1, 2, 0]])


def test_all_of_a_deep_head_is_drawn_anew_when_asked() -> None:
    model = roberta()
    dense = model.classifier.dense.weight.detach().clone()
    body = kit.bits(model.roberta)
    surgery.apply(model, step({"path": "classifier"}, labels=5, reset=True))
    assert not torch.equal(model.classifier.dense.weight, dense)
    assert model.classifier.out_proj.weight.shape == (5, 32)
    assert kit.same_bits(body, kit.bits(model.roberta))
    kit.assert_as_fresh(model)


def test_a_language_model_s_head_is_drawn_anew() -> None:
    model = kit.llama(initializer_range=0.3)
    old = model.lm_head.weight.detach().clone()
    surgery.apply(model, step({"role": "head"}, reset=True))
    assert not torch.equal(model.lm_head.weight, old)
    assert 0.25 < model.lm_head.weight.std() < 0.35


def test_a_tied_head_is_refused_until_it_is_untied() -> None:
    model = kit.qwen2(tie_word_embeddings=True)
    at = {"path": "lm_head"}
    with pytest.raises(RefusedError, match=r"shared with .*embed_tokens.weight.*untie"):
        surgery.apply(model, step(at, reset=True))
    table = model.model.embed_tokens.weight
    surgery.apply(model, [{"use": "untie", "at": at}, step(at, reset=True) | {"overlap": True}])
    assert model.model.embed_tokens.weight is table
    assert not torch.equal(model.lm_head.weight, table)


def test_a_model_is_planned_written_loaded_and_undone(tmp_path: Path) -> None:
    loaded = kit.round_trip(kit.vit(), step(labels=NAMES), tmp_path)
    assert T.AutoConfig.from_pretrained(tmp_path / "live-full").id2label == dict(enumerate(NAMES))
    assert loaded(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 3)


def test_carried_rows_are_the_same_live_and_in_a_recipe(tmp_path: Path) -> None:
    model = kit.vit(id2label=dict(enumerate(NAMES)), label2id={})
    kit.round_trip(model, step(labels=["owl", "emu"], carry=True), tmp_path)


def test_another_base_is_told_from_this_one(tmp_path: Path) -> None:
    model = kit.vit()
    surgery.apply(model, step(labels=3)).save(tmp_path / "out")
    with pytest.raises(IntegrityError, match="the model that was operated on"):
        surgery.load(tmp_path / "out", kit.vit(initializer_range=0.5))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def test_a_linear_head_without_a_configuration_is_drawn_as_torch_does() -> None:
    model = Plain()
    before = kit.bits(model)
    applied = surgery.apply(model, step({"path": "head"}, labels=300))
    assert model.head.out_features == 300
    assert model(torch.zeros(1, 4)).shape == (1, 300)
    assert 0.4 < model.head.weight.abs().max() <= 0.5
    assert model.head.bias.any()
    applied.undo()
    assert kit.same_bits(before, kit.bits(model))
    with surgery.apply(model, step({"path": "head"}, reset=True)):
        assert not torch.equal(model.head.weight, before["head.weight"][3])
    assert model.head.out_features == 2


@pytest.mark.parametrize(
    ("build", "change", "message"),
    [
        (kit.vit, step(reset=True), "the whole model"),
        (kit.vit, step({"path": "vit"}, labels=3), "only selected tensors"),
        (kit.llama, step(labels=3), "weights depend on the labels"),
        (Plain, step({"path": "head"}, labels=["a"]), "there is no configuration"),
        (Plain, step({"path": "body"}, labels=["a"]), "there is no configuration"),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(
    build: Any, change: Any, message: str
) -> None:
    model = build()
    before = kit.bits(model)
    with pytest.raises(RefusedError, match=message):
        surgery.apply(model, change)
    assert kit.same_bits(before, kit.bits(model))


@pytest.mark.parametrize(
    "options",
    [{}, {"labels": 0}, {"labels": ["a", "a"]}, {"labels": 3, "carry": True}, {"labels": []}],
)
def test_a_recipe_must_ask_for_something(options: dict[str, Any]) -> None:
    with pytest.raises(SurgeryError, match="expected"):
        surgery.plan(kit.vit(), step(**options))


def test_the_order_of_independent_surgeries_does_not_matter() -> None:
    steps = [
        step(labels=NAMES),
        {"use": "pos_embed", "with": {"image_size": 48}},
        {"use": "patch_embed", "with": {"channels": 4}},
    ]
    made = []
    for order in (steps, steps[::-1], [steps[1], steps[2], steps[0]]):
        model = kit.vit()
        surgery.apply(model, order, seed=3)
        kit.assert_as_fresh(model)
        made.append(model.state_dict())
    for other in made[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in made[0].items())
