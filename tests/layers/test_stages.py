"""Backbones name stages after their layers; files are the same whichever way they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t

import surgery
from surgery.errors import SurgeryError
from tests.layers import models
from tests.layers.models import answers, made
from tests.rope import kit

VISION = {**kit.VISION, "num_hidden_layers": 4}


def step(layers: str, do: str) -> dict[str, Any]:
    return {"use": "layers", "at": {"layers": layers}, "with": {"do": do}}


def backbone(**given: Any) -> Any:
    torch.manual_seed(0)
    return t.Dinov2Backbone(t.Dinov2Config(**VISION, **given)).eval()


def test_a_model_that_gives_its_last_stage_still_does() -> None:
    model = t.Dinov2Model(t.Dinov2Config(**VISION)).eval()
    before = model.config.to_dict()
    applied = surgery.apply(model, step("1", "drop"))
    assert model.config.out_features == ["stage3"]
    assert model.config.stage_names == ["stem", "stage1", "stage2", "stage3"]
    kit.assert_as_fresh(model)
    applied.undo()
    assert model.config.to_dict() == before


@pytest.mark.parametrize(
    ("layers", "do", "stages"),
    [("2", "drop", ["stem", "stage2", "stage3"]), ("3", "drop", ["stem", "stage2", "stage3"]),
     ("0", "repeat", ["stem", "stage3", "stage5"]), ("1", "insert", ["stem", "stage3", "stage5"])],
)  # fmt: skip
def test_what_a_backbone_gives_stays_the_output_of_the_same_layers(
    layers: str, do: str, stages: list[str]
) -> None:
    model = backbone(out_features=["stem", "stage2", "stage4"])
    image = torch.ones(1, 3, 32, 32)
    old = model(image).feature_maps
    surgery.apply(model, step(layers, do))
    assert model.config.out_features == model.out_features == stages
    new = model(image).feature_maps
    same = {"drop": 2, "repeat": 1, "insert": 3}[do]
    assert all(torch.equal(a, b) for a, b in zip(old[:same], new[:same], strict=True))
    read = type(model.config).from_dict(model.config.to_dict())
    assert read.out_features == stages


def test_a_layer_whose_output_is_given_is_not_dropped() -> None:
    model = backbone(out_indices=[2, 4])
    with pytest.raises(SurgeryError, match="names stage2, whose layer is gone; keep layer 1"):
        surgery.apply(model, step("1", "drop"))


def test_stacked_experts_lie_in_the_same_files_live_and_streamed(tmp_path: Path) -> None:
    model = made(models.mixtral)
    model.save_pretrained(tmp_path / "base", max_shard_size="20kB")
    with surgery.apply(model, step("1", "drop")):
        wanted = answers(model)
        folders = [kit._applied(step("1", "drop"), tmp_path, f"{way}-full", {})
                   for way in ("live", "stream")]  # fmt: skip
        plain = type(model).from_pretrained(folders[1])
        assert torch.equal(answers(plain), wanted)
    live, stream = ({p.name: p.read_bytes() for p in f.glob("model*")} for f in folders)
    assert len(live) == 5
    assert live == stream
