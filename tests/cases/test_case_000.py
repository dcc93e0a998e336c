"""Case 000: SAM 2 with LoRA, whose masks and feature maps were prepared by hand."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.errors import RefusedError, TrainingError
from surgery.flow.prove import violations
from surgery.hooks.registry import registry
from surgery_plugins.objectives.segmentation import Segmentation
from tests.segmentation import kit

LORA = [
    {"use": "freeze"},
    {
        "use": "lora",
        "at": {"path": "vision_encoder.backbone.**", "role": ["attention.q", "attention.v"]},
        "with": {"rank": 4, "alpha": 4},
    },
]


@pytest.fixture(scope="module")
def sam2() -> Any:
    """The geometry of the published models, 1024 pixels, with small widths."""
    return kit.sam2(1024)


@pytest.fixture(scope="module")
def maps(sam2: Any) -> list[Tensor]:
    """Feature maps of the shapes that its vision encoder gives, finest first."""
    encoder = deepcopy(sam2.vision_encoder).to("meta")
    found = encoder(torch.empty(1, 3, 1024, 1024, device="meta")).fpn_hidden_states
    return [torch.zeros(one.shape) for one in found]


def by_hand(model: Any, embedding: Tensor, mask: tuple[int, int], fine: list[Tensor]) -> Tensor:
    """Decode as the hand-written training did."""
    points, labels = torch.full((1, 1, 1, 2), 512.0), torch.ones(1, 1, 1, dtype=torch.int32)
    with torch.no_grad():
        sparse, dense = model.prompt_encoder(points, labels, None, torch.zeros(1, 1, *mask))
        masks, *_ = model.mask_decoder(
            image_embeddings=embedding,
            image_positional_embeddings=model.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=fine,
        )
    return masks  # type: ignore[no-any-return]


def projected(model: Any, maps: list[Tensor]) -> list[Tensor]:
    decoder = model.mask_decoder
    return [decoder.conv_s0(maps[0]), decoder.conv_s1(maps[1])]


@pytest.mark.parametrize(
    ("level", "mask", "first", "second"),
    [(0, (720, 1280), 256, 320), (0, (256, 256), 256, 64), (-1, (720, 1280), 64, 320)],
)
def test_the_two_errors_of_the_case_come_from_the_level_and_from_the_mask(
    sam2: Any, maps: list[Tensor], level: int, mask: tuple[int, int], first: int, second: int
) -> None:
    told = rf"tensor a \({first}\) must match the size of tensor b \({second}\) at non-singleton"
    with pytest.raises(RuntimeError, match=told):
        by_hand(sam2, maps[level], mask, projected(sam2, maps))


def test_with_the_coarsest_level_and_the_encoders_own_mask_size_it_runs(
    sam2: Any, maps: list[Tensor]
) -> None:
    fine = projected(sam2, maps)
    assert by_hand(sam2, maps[-1], (256, 256), fine).shape == (1, 1, 1, 256, 256)


@pytest.mark.parametrize(
    ("inputs", "contract", "told"),
    [
        ({"mask_inputs": (1, 1, 720, 1280)}, "mask size", "prompt_encoder.mask_input_size"),
        ({"image_embeddings": (1, 32, 256, 256)}, "feature map", "64 x 64, the coarsest"),
        ({"image_positional_embeddings": (2, 32, 64, 64)}, "dense positions", "get_dense_pe"),
        ({"pixel_values": (1, 3, 720, 1280)}, "image size", "1024 x 1024"),
    ],
)
def test_contracts_name_what_was_prepared_wrongly_before_anything_runs(
    sam2: Any, inputs: dict[str, tuple[int, ...]], contract: str, told: str
) -> None:
    given = {name: torch.empty(shape, device="meta") for name, shape in inputs.items()}
    patient = replace(kit.patient(sam2), inputs=given)
    ((family, broken),) = violations(patient, registry().families())
    assert family == "sam2"
    assert isinstance(broken, list)
    (one,) = broken
    assert one.contract == contract
    assert one.where == f"inputs.{next(iter(inputs))}"
    assert told in str(one)


def test_images_of_the_videos_size_are_refused_before_the_first_step(tmp_path: Path) -> None:
    size = {"train.objective.image_size": [720, 1280], "train.steps": 1, "train.batch": 1}
    recipe = kit.shipped(tmp_path, "sam2-lora", kit.sam2(128), 2, **size)
    with pytest.raises(RefusedError, match="expected 128 x 128 pixels: 8 x 8 cells"):
        kit.run(recipe)
    assert not (tmp_path / "sam2-lora").exists()


def test_the_objective_prepares_masks_of_any_video_by_contract() -> None:
    model = kit.sam2(128)
    objective = Segmentation(prompt="mask")
    sizes = [{"high": 72, "wide": 128}, {"high": 100, "wide": 60}]
    samples = [{**(one := kit.disc(n, **size)), "prompt": one["mask"]} for n, size in
               enumerate(sizes)]  # fmt: skip
    batch = kit.collated(objective, kit.patient(model), samples)
    assert batch["prompt_mask"].shape == (2, 1, 128, 128)
    step = objective.step(model, batch)
    assert torch.isfinite(step.loss)


class Gated(nn.Module):
    """Answer as the heads for video do, which write over masks whose object score is low."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        points = torch.full((len(pixel_values), 1, 1, 2), 128.0)
        labels = torch.ones(len(pixel_values), 1, 1, dtype=torch.int32)
        found = self.inner._single_frame_forward(
            pixel_values=pixel_values, input_points=points, input_labels=labels,
            multimask_output=False,
        )  # fmt: skip
        return {"pred_masks": found.pred_masks[:, 0]}


def absent() -> Any:
    """Give a SAM 2 for video that sees no object anywhere, with LoRA."""
    model = kit.sam2_video()
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(-100.0)
    surgery.apply(model, LORA)
    return model


def adapters(model: nn.Module) -> list[Tensor | None]:
    return [p.grad for n, p in model.named_parameters() if n.endswith("_B")]


def test_heads_that_write_over_masks_leave_every_adapter_without_a_gradient() -> None:
    model = absent()
    masks = Gated(model)(torch.zeros(1, 3, 256, 256))["pred_masks"]
    assert bool((masks == -1024).all())
    masks.sigmoid().mean().backward()
    grads = adapters(model)
    assert grads
    assert not any(grad is not None and bool(grad.any()) for grad in grads)


def test_the_dead_path_is_named_before_the_optimizer_moves_anything() -> None:
    model = absent()
    objective = Segmentation(prompt="none", output="pred_masks", **kit.COLOURS, image_size=256)
    owner = kit.patient(Gated(model))
    with pytest.raises(TrainingError, match=r"-1024 everywhere.*object score is low"):
        kit.trained(objective, owner, 1)


def test_the_objective_goes_around_the_dead_path() -> None:
    model = absent()
    objective = Segmentation(prompt="points")
    step = objective.step(model, kit.batch(objective, kit.patient(model)))
    step.loss.backward()
    grads = adapters(model)
    assert len(grads) == 10
    assert all(grad is not None and bool(grad.any()) for grad in grads)


def test_the_recipe_trains(tmp_path: Path) -> None:
    sets = {"train.steps": 12, "train.batch": 4, "train.optimizer.lr": 0.03,
            "train.objective.flip": 0.0}  # fmt: skip
    done, lines = kit.run(kit.shipped(tmp_path, "sam2-lora", kit.sam2(128), 4, **sets))
    assert done.ended == "done"
    assert kit.fallen(lines) < 0.95
    assert all(check.status == "passed" for check in done.checks)
    assert len(surgery.load(tmp_path / "sam2-lora").plan.trainable) == 20
