"""Case 002: a view encoder and a head for masks learn beside a frozen SAM 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe
from surgery.training.run import train_recipe
from surgery_plugins.objectives.segmentation import Segmentation
from tests.attach.kit import CASE_002
from tests.rope import kit as models
from tests.segmentation import kit

OPTIONS: dict[str, Any] = {
    "prompt": "none", "output": "segment",
    "also": [{"output": "view", "note": "place", "weight": 0.5}], **kit.COLOURS,
}  # fmt: skip


def steps() -> list[dict[str, Any]]:
    """Attach what the case wants, the view encoder with two numbers."""
    freeze, view, segment = CASE_002
    module = {**view["with"]["module"], "out": 2}
    return [freeze, {**view, "with": {**view["with"], "module": module}}, segment]


def test_the_whole_of_sam_3_gives_both_beside_its_own_outputs() -> None:
    model = models.sam3()
    images, ids = torch.randn(1, 3, 126, 126), torch.tensor([[1, 5, 2]])
    with torch.no_grad():
        before = model(pixel_values=images, input_ids=ids)
    with surgery.apply(model, steps()) as applied, torch.no_grad():
        after = model(pixel_values=images, input_ids=ids)
        assert torch.equal(after.pred_masks, before.pred_masks)
        assert tuple(after.view.shape) == (1, 2)
        assert tuple(after.segment.shape) == (1, 1, 36, 36)
        assert all(n.startswith(("view.", "segment.")) for n in applied.plan.trainable)
        assert not any(m.training for m in model.train().vision_encoder.modules())


def test_both_learn_and_the_frozen_bits_stay() -> None:
    model = models.sam3_tracker()
    frozen = models.bits(model)
    with surgery.apply(model, steps()):
        owner = kit.patient(model)
        objective = Segmentation.model_validate(OPTIONS)
        assert objective.refuse(owner) is None
        model.train()
        losses, made = kit.trained(objective, owner, steps=10, lr=3e-3)
        assert losses[-1] < 0.9 * losses[0]
        errors = [float(step.metrics["view_error"][0]) for step in made]
        assert errors[-1] < errors[0]
    assert models.same_bits(frozen, models.bits(model))


@pytest.mark.slow
def test_trained_by_a_recipe_they_are_saved_and_loaded(tmp_path: Path) -> None:
    models.sam3_tracker().save_pretrained(tmp_path / "sam3")
    kit.folders(tmp_path / "discs", 8)
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe()))
    trained = train_recipe(read_recipe(str(file), registry=registry()), registry())
    assert trained.ended == "done"
    loaded = surgery.load(tmp_path / "out", base=tmp_path / "sam3")
    images = torch.randn(1, 3, 126, 126)
    fresh = surgery.apply(models.sam3_tracker(), steps(), seed=7)
    with torch.no_grad():
        found, wanted = loaded.model(pixel_values=images), fresh.model(pixel_values=images)
    assert torch.equal(found.pred_masks, wanted.pred_masks)
    assert not torch.equal(found.segment, wanted.segment)
    assert not torch.equal(found.view, wanted.view)
    state = loaded.model.state_dict()
    old = models.sam3_tracker().state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in old.items())


def recipe() -> dict[str, Any]:
    """Give the case as a recipe, small."""
    data = {"use": "image-mask", "images": "./discs/images", "masks": "./discs/masks",
            "notes": "./discs/notes.json"}  # fmt: skip
    return {
        "recipe": 1, "seed": 7, "patient": {"source": "hf", "path": "./sam3"},
        "surgeries": steps(), "output": {"path": "./out"},
        "train": {
            "objective": {"use": "segmentation", **{k: _plain(v) for k, v in OPTIONS.items()}},
            "data": data, "evaluation": data, "steps": 4, "batch": 4,
            "evaluate": {"every": 2, "metric": "dice"}, "optimizer": {"lr": 0.003},
            "log": {"every": 1, "trackers": []},
        },
    }  # fmt: skip


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
