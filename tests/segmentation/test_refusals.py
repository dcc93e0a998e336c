"""A patient that cannot learn masks so is refused, with what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from surgery.errors import TrainingError
from surgery_plugins.objectives.segmentation import Segmentation
from tests.rope import kit as models
from tests.segmentation import kit


@pytest.mark.parametrize(
    ("build", "options", "told"),
    [
        (models.sam3, {"prompt": "box"}, "it takes texts, not the prompt 'box'"),
        (models.sam3, {"prompt": "text"}, "has no tokenizer"),
        (kit.sam2, {"prompt": "text"}, "takes no text"),
        (kit.sam2, {"prompt": "box", "image_size": 224}, "expected 256 x 256 pixels"),
        (kit.sam2, {"prompt": "box", "also": [{"output": "view", "note": "view"}]},
         "name `output` as well"),
        (models.vit, {"prompt": "box", "image_size": 32, **kit.COLOURS}, "takes no prompts"),
        (models.vit, {"prompt": "none"}, "no processor says the mean"),
        (models.sam3_tracker, {"prompt": "points", "image_size": 140}, "10 x 10 patches"),
    ],
)  # fmt: skip
def test_the_reason_is_given(build: Any, options: dict[str, Any], told: str) -> None:
    why = Segmentation(**options).refuse(kit.patient(build()))
    assert why is not None
    assert told in why


@pytest.mark.parametrize(
    ("build", "prompt"),
    [(kit.sam2, "box"), (kit.sam2_video, "mask"), (models.sam3_tracker, "points")],
)
def test_models_with_prompt_encoders_are_taken(build: Any, prompt: Any) -> None:
    assert Segmentation(prompt=prompt).refuse(kit.patient(build())) is None


def test_outputs_without_masks_are_listed() -> None:
    model = models.vit()
    objective = Segmentation(prompt="none", image_size=32, **kit.COLOURS)
    owner = kit.patient(model)
    with pytest.raises(TrainingError, match=r"logits \(2, 2\)"):
        objective.step(model, kit.batch(objective, owner))


def test_a_processor_says_mean_and_deviation_before_the_family_does() -> None:
    class Processor:
        image_mean, image_std = [0.1, 0.2, 0.3], [1.0, 1.0, 1.0]

    owner = kit.patient(kit.sam2(), processor=Processor())
    objective = Segmentation(prompt="box")
    assert objective.picture(owner).mean == (0.1, 0.2, 0.3)
    assert objective.picture(kit.patient(kit.sam2())).mean == (0.485, 0.456, 0.406)
    assert Segmentation(prompt="box", **kit.COLOURS).picture(owner).mean == (0.5, 0.5, 0.5)


def test_a_map_of_another_grid_is_named_in_a_step() -> None:
    model = kit.sam2(128)
    objective = Segmentation(prompt="none", image_size=256)
    batch = kit.batch(objective, kit.patient(model))
    with pytest.raises(TrainingError, match="one of 8 x 8 cells, as the prompt encoder's"):
        objective.step(model, batch)
