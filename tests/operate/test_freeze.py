"""Laws of freeze and unfreeze."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import ConflictError, Problems, RefusedError
from surgery_plugins.surgeries.freeze import parse_rows


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(ids)))


IDS = torch.tensor([0, 3, 8])


@pytest.fixture
def model() -> Small:
    torch.manual_seed(0)
    return Small().eval()


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_freeze_everything_then_unfreeze_a_part(model: Small) -> None:
    before = trainable(model)
    steps = [{"use": "freeze"}, {"use": "unfreeze", "at": {"match": r"body\.0\.bias"}}]
    with surgery.apply(model, steps) as applied:
        assert trainable(model) == {"body.0.bias"} == set(applied.plan.trainable)
    assert trainable(model) == before


def test_freezing_a_container_freezes_all_below_and_nothing_else(model: Small) -> None:
    surgery.apply(model, {"use": "freeze", "at": {"path": "body"}})
    assert trainable(model) == {"embed.weight"}


@pytest.mark.parametrize("order", [0, 1])
def test_freezing_all_leaves_adapters_trainable_in_any_order(model: Small, order: int) -> None:
    steps = [
        {"use": "freeze"},
        {"use": "lora", "at": {"path": "body.0"}, "with": {"rank": 2}},
    ]
    surgery.apply(model, steps[::-1] if order else steps)
    assert trainable(model) == {"body.0.lora_default_A", "body.0.lora_default_B"}


def test_refreezing_what_was_unfrozen_is_an_error(model: Small) -> None:
    steps = [{"use": "unfreeze", "at": {"path": "body.0"}}, {"use": "freeze"}]
    before = trainable(model)
    with pytest.raises(ConflictError, match=r"steps\[1\] \(freeze\).*steps\[0\] \(unfreeze\)"):
        surgery.apply(model, steps)
    assert trainable(model) == before
    surgery.apply(model, [steps[0], {**steps[1], "overlap": True}])
    assert trainable(model) == set()


def test_modules_held_in_eval_mode_stay_there_and_adapters_in_them_train(model: Small) -> None:
    steps = [
        {"use": "freeze", "at": {"path": "body"}, "with": {"eval_mode": True}},
        {"use": "lora", "at": {"path": "body.0"}, "with": {"rank": 2, "dropout": 0.5}},
    ]
    applied = surgery.apply(model, steps)
    model.train()
    assert not any(module.training for module in model.body.modules())
    statistics = model.body[2].running_mean.clone()
    with torch.no_grad():
        model.body[0].lora_default_B.normal_()
        answers = {tuple(model(IDS).flatten().tolist()) for _ in range(8)}
    assert len(answers) > 1, "the adapter's dropout follows the mode that was asked for"
    assert torch.equal(model.body[2].running_mean, statistics)
    model.eval()
    assert torch.equal(model(IDS), model(IDS))
    applied.undo()
    model.train()
    assert model.body[2].training


def test_all_modules_stay_in_eval_mode_whatever_raw_parameters_there_are() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8)
    surgery.apply(model, {"use": "freeze", "with": {"eval_mode": True}})
    model.train()
    assert not any(module.training for module in model.modules())
    raw = {"use": "freeze", "at": {"path": "self_attn.in_proj_weight"}, "with": {"eval_mode": True}}
    with pytest.raises(RefusedError, match="raw parameters alone"):
        surgery.apply(nn.TransformerEncoderLayer(4, 2, 8), raw)


def test_rows_of_an_embedding_train_alone_and_its_tied_head_sees_them(model: Small) -> None:
    base = model.embed.weight.detach().clone()
    answer = model(IDS)
    applied = surgery.apply(
        model,
        [
            {"use": "freeze"},
            {"use": "unfreeze", "at": {"path": "embed"}, "with": {"rows": "3,7-8"}},
        ],
    )
    assert trainable(model) == {"embed.rows_weight"}
    assert torch.equal(model(IDS), answer)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(IDS).square().sum().backward()
    optimizer.step()
    seen = model.embed.weight
    changed = [n for n in range(9) if not torch.equal(seen[n], base[n])]
    assert changed == [3, 7, 8]
    assert torch.equal(model.head.weight, seen)
    assert torch.equal(model.embed._parameters["weight"], base)
    applied.undo()
    assert torch.equal(model.embed.weight, base)
    assert model.head.weight is model.embed.weight


@pytest.mark.parametrize("rows", ["", "a", "3-", "5-4", "1,1", "2-4,3", "-1"])
def test_rows_that_are_no_rows_are_errors(model: Small, rows: str) -> None:
    with pytest.raises(Problems, match="rows"):
        surgery.apply(model, {"use": "unfreeze", "at": {"path": "embed"}, "with": {"rows": rows}})


def test_rows_beyond_the_last_are_refused(model: Small) -> None:
    with pytest.raises(RefusedError, match="it has 9 rows"):
        surgery.apply(model, {"use": "unfreeze", "at": {"path": "embed"}, "with": {"rows": "9"}})


def test_rows_are_read_as_half_open_ranges() -> None:
    assert parse_rows("7, 0-2") == ((0, 3), (7, 8))


def test_a_part_of_a_fused_weight_trains_alone() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=16, n_embd=8, n_layer=1, n_head=2, n_positions=8, bos_token_id=1, eos_token_id=2
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    with pytest.raises(RefusedError, match="only some rows"):
        surgery.apply(model, {"use": "freeze", "at": {"role": "attention.q"}})
