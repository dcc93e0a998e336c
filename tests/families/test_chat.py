"""InternVL's chat model and Sa2VA, in look-alikes of the classes that come with checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.families.kit import Break, broken, image, known_by, only, setting
from tests.families.meta_chat import Chat, Sa2va, prompt


@pytest.mark.parametrize(("make", "known"), [(Chat, ["internvl-chat"]),
                                             (Sa2va, ["internvl-chat", "sam2"])])  # fmt: skip
def test_a_sound_model_keeps_every_contract(make: Any, known: list[str]) -> None:
    model = make()
    assert known_by(model) == known
    assert broken(model) == []


def layer(path: str, made: nn.Module) -> Break:
    def apply(model: Any) -> None:
        above, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(above), leaf, made)

    return apply


BROKEN: list[tuple[Break, str, str, str, str]] = [
    (setting("num_image_token", 256), "places in the prompt", "num_image_token", "4, the", "256"),
    (setting("downsample_ratio", 1.0), "connector input", "mlp1.0.weight", "16, the width", "64"),
    (layer("mlp1.3", nn.Linear(24, 40)), "connector output", "mlp1.3.weight", "24, the", "40"),
    (setting("img_context_token_id", 64), "image token", "img_context_token_id", "below 64", "64"),
    (setting("vision_model.config.image_size", 64), "position table",
     "vision_model.embeddings.position_embedding", "65 rows: 8 x 8 patches", "17 rows"),
    (setting("seg_token_idx", 64), "[SEG] token", "seg_token_idx", "an id below 64", "64"),
    (layer("text_hidden_fcs.0", nn.Linear(48, 24)), "[SEG] input", "text_hidden_fcs.0.weight",
     "24, the width of the language model's tokens", "48"),
    (layer("text_hidden_fcs.2", nn.Linear(24, 256)), "[SEG] output", "text_hidden_fcs.2.weight",
     "32, the width of the prompts of grounding_encoder", "256"),
    (setting("grounding_encoder.sam2_model.backbone_stride", 8), "stride",
     "grounding_encoder.sam2_model.backbone_stride", "16", "8"),
]  # fmt: skip


@pytest.mark.parametrize("case", BROKEN, ids=lambda c: c[2])
def test_each_relation_that_is_broken_is_named_with_its_place_and_both_values(
    case: tuple[Break, str, str, str, str],
) -> None:
    make, contract, where, wanted, found = case
    model = Sa2va()
    make(model)
    one = only(broken(model), contract, where)
    assert wanted in one.wanted
    assert found in one.found


@pytest.mark.parametrize("places", [3, 4, 5])
def test_a_prompt_is_accepted_only_if_it_has_a_place_for_each_token_of_the_image(
    places: int,
) -> None:
    found = broken(Chat(), pixel_values=torch.zeros(1, 3, 32, 32), input_ids=prompt(places))
    assert bool(found) == (places != 4)
    if found:
        one = only(found, "places in the prompt", "inputs.input_ids")
        assert one.wanted == "4 places: 1 image of 4 tokens"


def test_tiles_of_a_forced_size_count_by_that_size() -> None:
    model = Chat()
    model.config.force_image_size = 64
    assert only(broken(model), "places in the prompt", "num_image_token").wanted.startswith("16,")
    model.num_image_token = 16
    assert broken(model) == []


def test_an_image_that_leaves_half_a_block_of_patches_is_named() -> None:
    one = only(broken(Chat(), pixel_values=image(40, 40)), "image size", "inputs.pixel_values")
    assert "multiples of 16 x 16 pixels: patches of 8 x 8 x 2 joined, as those" in one.wanted
