"""Only the rows of new tokens train, and everything else keeps its bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery import SurgeryError
from tests.tokens import kit

NEW = {"use": "tokens", "with": {"add": ["[SEG]", "<p>"], "train": "new"}}
LORA = {
    "use": "lora",
    "at": {"role": ["attention.q", "attention.v"]},
    "with": {"rank": 2, "alpha": 4},
}
FREEZE = {"use": "freeze"}


def trained(model: Any, ids: torch.Tensor, steps: int = 2) -> None:
    chosen = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(chosen, lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("others", [[], [LORA]], ids=["alone", "with-lora"])
def test_new_rows_learn_and_nothing_else_moves(tied: bool, others: list[Any]) -> None:
    patient = kit.patient(tied=tied)
    surgery.apply(patient, [FREEZE, NEW, *others])
    model: Any = patient.model
    rows = patient.config.vocab_size
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    shown = model.get_input_embeddings().weight.detach().clone()
    trained(model, torch.tensor([[rows - 2, rows - 1, 5, 6, rows - 2]]))
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    wanted = {"model.embed_tokens.rows_weight"}
    wanted |= set() if tied else {"lm_head.rows_weight"}
    assert {name for name in moved if "lora" not in name} == wanted
    assert any("lora" in name for name in moved) == bool(others)
    now = model.get_input_embeddings().weight.detach()
    assert torch.equal(now[:-2], shown[:-2])
    assert not torch.equal(now[-2:], shown[-2:])
    if tied:
        assert torch.equal(model.lm_head.weight, now)


def test_counted_in_rows_not_in_tables() -> None:
    patient = kit.patient(tied=True)
    plan = surgery.plan(patient, [FREEZE, NEW])
    assert plan.to_json()["parameters"]["trainable"] == 2 * 16


def test_the_order_with_freeze_does_not_matter() -> None:
    names = []
    for steps in ([FREEZE, NEW], [NEW, FREEZE]):
        names.append(surgery.plan(kit.patient(), steps).trainable)
    assert names[0] == names[1]
    assert len(names[0]) == 2


def test_trained_rows_survive_a_save(tmp_path: Path) -> None:
    patient = kit.patient()
    made = surgery.apply(patient, [FREEZE, NEW, LORA])
    ids = torch.tensor([[340, 341, 5, 6, 340]])
    trained(patient.model, ids)
    with torch.no_grad():
        wanted = patient.model(ids).logits
    made.save(tmp_path / "out")
    again = kit.patient()
    surgery.load(tmp_path / "out", again)
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, wanted)
    before = kit.bits(kit.patient().model)
    made.undo()
    assert kit.bits(patient.model) == before


def test_who_unfroze_the_table_is_asked_first() -> None:
    steps = [{"use": "unfreeze", "at": {"path": "model.embed_tokens"}}, NEW]
    with pytest.raises(SurgeryError, match=r"flag of model\.embed_tokens\.weight"):
        surgery.apply(kit.patient(), steps)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [True, False])
def test_peft_reads_the_trained_rows_as_its_own(tied: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from surgery_plugins.peft.export import export_adapter

    patient = kit.patient(tied=tied)
    surgery.apply(patient, [FREEZE, NEW, LORA])
    ids = torch.tensor([[340, 341, 5, 6, 340]])
    trained(patient.model, ids)
    export_adapter(patient.model, "default", tmp_path)
    grown = kit.patient(tied=tied)
    surgery.apply(grown, {"use": "tokens", "with": {"add": ["[SEG]", "<p>"]}})
    with torch.no_grad():
        wanted = patient.model(ids).logits
        plain = grown.model(ids).logits.clone()
        found = peft.PeftModel.from_pretrained(grown.model, str(tmp_path)).eval()(ids).logits
    assert (plain - wanted).abs().max() > 1e-3
    assert (found - wanted).abs().max() <= 1e-6
