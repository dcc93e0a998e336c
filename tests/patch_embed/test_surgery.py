"""Patch embeddings on real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

import surgery
from surgery.errors import RefusedError, SurgeryError
from surgery_plugins.surgeries.patch_embed.kernels import pi_resize, with_channels
from tests.rope import kit

CONVOLUTIONS = [
    (kit.vit, "vit.embeddings.patch_embeddings.projection.weight"),
    (kit.dinov2, "dinov2.embeddings.patch_embeddings.projection.weight"),
    (kit.clip, "vision_model.embeddings.patch_embedding.weight"),
    (kit.siglip, "vision_model.embeddings.patch_embedding.weight"),
]


def step(**options: Any) -> dict[str, Any]:
    return {"use": "patch_embed", "with": options}


@pytest.mark.parametrize(("build", "name"), CONVOLUTIONS)
def test_a_kernel_is_resized_and_the_model_is_as_a_fresh_one(build: Any, name: str) -> None:
    model = build()
    old, before, config = model.get_parameter(name), kit.bits(model), model.config.to_dict()
    applied = surgery.apply(model, step(patch_size=16, channels=4))
    wanted = pi_resize(with_channels(old.detach(), 4), (16, 16))
    assert torch.equal(model.get_parameter(name), wanted)
    kit.assert_as_fresh(model)
    applied.undo()
    assert kit.same_bits(before, kit.bits(model))
    assert model.config.to_dict() == config


def test_bigger_patches_of_a_bigger_image_give_the_tokens_of_before() -> None:
    model = kit.vit()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cells = images.reshape(1, 3, 4, 8, 4, 8).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, 8, 8)
    bigger = interpolate(cells, (12, 12), mode="bicubic", antialias=True)
    image = bigger.reshape(1, 4, 4, 3, 12, 12).permute(0, 3, 1, 4, 2, 5).reshape(1, 3, 48, 48)
    before = model(images).logits
    surgery.apply(model, step(patch_size=12, image_size=48))
    kit.assert_as_fresh(model)
    torch.testing.assert_close(model(image).logits, before, rtol=1e-3, atol=1e-5)


def test_a_grey_image_is_answered_by_one_channel_as_by_three() -> None:
    model = kit.vit()
    grey = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model(grey.expand(1, 3, 32, 32)).logits
    surgery.apply(model, step(channels=1))
    torch.testing.assert_close(model(grey).logits, before, rtol=1e-4, atol=1e-6)
    kit.assert_as_fresh(model)


def test_a_model_is_planned_written_loaded_and_undone(tmp_path: Path) -> None:
    loaded = kit.round_trip(kit.vit(), step(patch_size=16, channels=6), tmp_path)
    assert loaded(torch.zeros(1, 6, 32, 32)).logits.shape == (1, 2)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.mix = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.stem(x)).mean((2, 3)))


def test_without_a_configuration_the_convolutions_that_cut_patches_are_meant() -> None:
    model = Plain().eval()
    before, mix = kit.bits(model), model.mix.weight
    applied = surgery.apply(model, step(patch_size=[8, 6], channels=1))
    assert model.stem.weight.shape == (8, 1, 8, 6)
    assert model.mix.weight is mix
    assert model(torch.zeros(1, 1, 16, 12)).shape == (1, 2)
    applied.undo()
    assert (model.stem.kernel_size, model.stem.stride, model.stem.in_channels) == (
        (4, 4),
        (4, 4),
        3,
    )
    assert kit.same_bits(before, kit.bits(model))


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (kit.vit, {"patch_size": 10}, "nearest is 30 x 30"),
        (kit.vit, {"patch_size": 8}, "those there are"),
        (kit.llama, {"patch_size": 4}, "one image_size"),
        (kit.llama, {"channels": 4}, "one num_channels"),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(
    build: Any, options: Any, message: str
) -> None:
    model = build()
    before = kit.bits(model)
    with pytest.raises(RefusedError, match=message):
        surgery.apply(model, step(**options))
    assert kit.same_bits(before, kit.bits(model))


def test_a_convolution_that_overlaps_is_refused() -> None:
    with pytest.raises(RefusedError, match="whose stride is its kernel"):
        surgery.apply(Plain(), {**step(patch_size=2), "at": {"path": "mix"}})


@pytest.mark.parametrize("options", [{}, {"image_size": 3}, {"patch_size": [1, 2, 3]}])
def test_a_recipe_must_ask_for_something(options: dict[str, Any]) -> None:
    with pytest.raises(SurgeryError, match="expected"):
        surgery.plan(kit.vit(), step(**options))
