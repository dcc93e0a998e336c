"""The way through prompt encoder and mask decoder gives what the models' own forwards give."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from surgery_plugins.objectives.segmentation import Segmentation
from surgery_plugins.objectives.segmentation.prompted import prompted
from tests.rope import kit as models
from tests.segmentation import kit


def ways() -> list[tuple[str, Any]]:
    return [("sam2", kit.sam2), ("tracker", models.sam3_tracker)]


@pytest.mark.parametrize(("name", "build"), ways())
@pytest.mark.parametrize("prompt", ["box", "points", "none", "mask"])
@pytest.mark.parametrize("several", [False, True])
def test_masks_are_bit_for_bit_those_of_the_models_own_forward(
    name: str, build: Any, prompt: Any, several: bool
) -> None:
    model = build()
    owner = kit.patient(model)
    objective = Segmentation(prompt=prompt)
    batch = kit.batch(objective, owner, prompt=kit.disc(0)["mask"])
    given: dict[str, Any] = {"pixel_values": batch["pixel_values"]}
    if prompt == "box":
        given["input_boxes"] = batch["points"].reshape(2, 1, 4)
    elif prompt == "points":
        given |= {
            "input_points": batch["points"][:, None],
            "input_labels": batch["labels"][:, None],
        }
    elif prompt == "mask":
        given["input_masks"] = batch["prompt_mask"] * 20 - 10
    with torch.no_grad():
        wanted = model(**given, multimask_output=several).pred_masks[:, 0]
        way = prompted(model)
        assert way is not None
        found = way.masks(batch, several)
    assert torch.equal(found, wanted)
    side = 4 * model.prompt_encoder.image_embedding_size[0]
    assert found.shape == (2, 3 if several else 1, side, side)


def test_gradients_reach_the_trunk() -> None:
    model = kit.sam2()
    objective = Segmentation(prompt="box")
    step = objective.step(model, kit.batch(objective, kit.patient(model)))
    step.loss.backward()
    qkv = [p.grad for n, p in model.named_parameters() if n.endswith("attn.qkv.weight")]
    assert len(qkv) == 5
    assert all(grad is not None and bool(grad.any()) for grad in qkv)
