"""Case 002: SAM 3 frozen, a head for masks and an encoder of the view trained beside it."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.checks.check import Check
from surgery.cli import main
from surgery.errors import RefusedError
from surgery.hooks.registry import registry
from surgery.recipe.recipe import Recipe
from surgery.training.preflight import preflight
from surgery_plugins.objectives.segmentation import Segmentation
from tests.rope import kit as models
from tests.segmentation import kit

SMALL = {
    "surgeries.1.with.module.hidden": [16], "surgeries.2.with.module.channels": [16],
    "train.objective.also.0.note": "place", "train.batch": 4, "train.optimizer.lr": 0.01,
}  # fmt: skip


def dropping() -> Any:
    """Give a SAM 3 whose trunk drops at random in training mode."""
    config = models.sam3().config
    config.vision_config.backbone_config.hidden_dropout = 0.3
    torch.manual_seed(0)
    return models.transformers.Sam3Model(config).eval()


def recipe_of(folder: Path, model: Any = None, **sets: Any) -> Recipe:
    given = {"train.steps": 1, **SMALL, **sets}
    return kit.shipped(folder, "sam3-frozen-head", model or models.sam3(), 4, **given)


def points(recipe: Recipe, *sizes: tuple[int, int]) -> dict[str, Check]:
    return {check.name: check for check in preflight(recipe, registry(), sizes).checks}


def test_a_parent_that_calls_train_makes_a_frozen_trunk_answer_at_random() -> None:
    trunk = dropping().vision_encoder.backbone.requires_grad_(False).eval()
    image = torch.ones(1, 3, 126, 126)

    def twice() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return trunk(image).last_hidden_state, trunk(image).last_hidden_state

    assert torch.equal(*twice())
    torch.nn.Sequential(trunk).train()
    assert not torch.equal(*twice())


def test_held_in_eval_mode_it_answers_the_same_whatever_a_parent_calls() -> None:
    model = dropping()
    surgery.apply(model, {"use": "freeze", "at": {"type": "Module"}, "with": {"eval_mode": True}})
    torch.nn.Sequential(model).train()
    image = torch.ones(1, 3, 126, 126)
    with torch.no_grad():
        one, two = (model.vision_encoder.backbone(image).last_hidden_state for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("size", [128, 144, 1024, (336, 588)])
def test_sizes_by_folklore_are_refused_with_the_grid_that_is_true(size: Any) -> None:
    objective = Segmentation(prompt="text", image_size=size)
    why = objective.refuse(kit.patient(models.sam3(), tokenizer=kit.tokenizer()))
    assert why is not None
    assert "expected 126 x 126 pixels: 9 x 9 patches of 14 x 14" in why


@pytest.mark.slow
def test_such_a_recipe_stops_before_the_first_step(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, **{"train.objective.image_size": 144})
    with pytest.raises(RefusedError, match="9 x 9 patches of 14 x 14"):
        kit.run(recipe)
    assert not (tmp_path / "sam3-head").exists()


def test_the_report_has_the_four_points_and_writes_nothing(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = points(recipe, (140, 140), (126, 126))
    assert list(found) == [
        "loads and freezes", "forward", "forward at 140 x 140", "forward at 126 x 126",
        "forward at 63 x 63", "forward at 189 x 189", "memory at the batch size",
        "frozen is frozen",
    ]  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before
    status = {name: check.status for name, check in found.items()}
    assert status.pop("forward at 126 x 126") == "passed"
    assert {name for name, one in status.items() if one == "warned"} == {
        "forward at 140 x 140", "forward at 63 x 63", "forward at 189 x 189",
    }  # fmt: skip
    assert "10 x 10 patches" in found["forward at 140 x 140"].detail
    model = models.sam3()
    frozen = sum(p.numel() for p in model.parameters())
    assert f"{frozen} in {len(list(model.parameters()))} are frozen" in (
        found["loads and freezes"].detail
    )
    assert "pixel_values 4 x 3 x 126 x 126 float32" in found["forward"].detail
    assert "4 samples in one forward" in found["memory at the batch size"].detail


@pytest.mark.slow
def test_a_trunk_that_is_not_held_in_eval_mode_is_warned_of(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path / "held", dropping())
    assert points(recipe)["frozen is frozen"].status == "passed"
    text = (tmp_path / "held" / "sam3-frozen-head.yaml").read_text()
    loose = text.replace("    with: {eval_mode: true}\n", "", 1)
    (tmp_path / "held" / "sam3-frozen-head.yaml").write_text(loose)
    recipe = kit.again(tmp_path / "held", "sam3-frozen-head", **{"train.steps": 1, **SMALL})
    found = points(recipe)["frozen is frozen"]
    assert found.status == "warned"
    assert "at random" in found.detail
    assert "eval_mode: true" in found.detail


@pytest.mark.slow
def test_what_cannot_be_trained_fails_the_report(tmp_path: Path) -> None:
    found = points(recipe_of(tmp_path, **{"train.objective.image_size": 140}))
    assert found["loads and freezes"].status == "passed"
    assert found["forward"].status == "failed"
    assert "10 x 10 patches" in found["forward"].detail
    assert found["memory at the batch size"].status == "skipped"
    assert found["frozen is frozen"].status == "skipped"


@pytest.mark.slow
def test_the_command_prints_the_report(tmp_path: Path) -> None:
    recipe_of(tmp_path)
    sets = {"train.epochs": None, "train.steps": 1, **SMALL, "train.micro": 2}
    options = [part for k, v in sets.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        status = main(
            ["check", "--train", "--json", "--image-size", "140",
             str(tmp_path / "sam3-frozen-head.yaml"), *options]
        )  # fmt: skip
    assert status == 0
    found = json.loads(out.getvalue())
    assert found["counts"] == {"passed": 4, "warned": 3, "failed": 0, "skipped": 0}
    memory = found["memory"]
    parts = ("weights", "gradients", "optimizer", "activations")
    assert memory["total"] == sum(memory[part] for part in parts)
    assert all(memory[part] > 0 for part in parts)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_the_recipe_trains_and_keeps_the_best_by_dice(tmp_path: Path, precision: str) -> None:
    sets = {"train.steps": 8, "train.evaluate.every": 4, "train.precision": precision}
    done, lines = kit.run(recipe_of(tmp_path, **sets))
    assert done.ended == "done"
    assert kit.fallen(lines) < 0.6
    judged = [line["evaluation"] for line in lines if "evaluation" in line]
    assert done.progress.best == max(one["dice"] for one in judged)
    assert done.progress.best > 0.8
    assert all("view_error" in one for one in judged)
    kept = json.loads((done.run / "checkpoints" / "best.json").read_text())["folder"]
    assert kept == f"step-{done.progress.best_step:08d}"
    loaded = surgery.load(tmp_path / "sam3-head")
    assert {name.split(".")[0] for name in loaded.plan.trainable} == {"view", "mask_head"}
    base = models.sam3().state_dict()
    after = loaded.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in base.items())
