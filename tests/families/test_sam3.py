"""SAM 3: every relation that the modules state holds, and each, once broken, is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families.kit import Break, broken, image, known_by, only, setting
from tests.families.meta_sam3 import meta_sam3
from tests.rope import kit as models
from tests.rope.lookalike import Trunk

MODELS: dict[str, Any] = {
    "model": models.sam3, "trunk": models.sam3_trunk, "tracker": models.sam3_tracker,
    "video": models.sam3_video, "meta": meta_sam3,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_sound_model_keeps_every_contract(name: str) -> None:
    model = MODELS[name]()
    assert known_by(model) == ["sam3"]
    assert broken(model) == []
    assert broken(model, pixel_values=image(126, 126)) == []


@pytest.mark.parametrize("name", ["Sam3", "Sam3Tracker", "Sam3TrackerVideo"])
def test_the_default_configurations_keep_every_contract(name: str) -> None:
    config = getattr(models.transformers, f"{name}Config")()
    with torch.device("meta"):
        model = getattr(models.transformers, f"{name}Model")(config)
    assert broken(model, pixel_values=image(1008, 1008)) == []


def test_1024_pixels_on_the_published_size_are_told_1008_the_grid_and_why() -> None:
    with torch.device("meta"):
        model = models.transformers.Sam3Model(models.transformers.Sam3Config())
    one = only(broken(model, pixel_values=image(1024, 1024)), "image size", "inputs.pixel_values")
    table = "vision_encoder.backbone.layers.7.position_ids"
    assert one.wanted == f"1008 x 1008 pixels: 72 x 72 patches of 14 x 14, as {table} has"
    assert one.found == "1024 x 1024 pixels, 73 x 73 patches"
    assert one.instead == (
        "resize the image to 1008 x 1008, or rebuild the tables with "
        "`use: rope, with: {image_size: 1022}`"
    )


TRUNK = "detector.backbone.vision_backbone.trunk"


def real(path: str) -> Break:
    def apply(model: Any) -> None:
        attention = model.get_submodule(path)
        attention._buffers["freqs_cis"] = torch.view_as_real(attention.freqs_cis)

    return apply


def shorter(path: str, leaf: str) -> Break:
    def apply(model: Any) -> None:
        owner = model.get_submodule(path)
        owner._buffers[leaf] = owner._buffers[leaf][:4]

    return apply


BROKEN: list[tuple[str, Break, str, str, str, str]] = [
    ("model", setting("vision_encoder.config.backbone_feature_sizes", [[288, 288]]),
     "feature sizes", "vision_encoder.config.backbone_feature_sizes", "[[36, 36]]", "288"),
    ("model", setting("vision_encoder.neck.fpn_layers", torch.nn.ModuleList()),
     "feature maps", "vision_encoder.neck.scale_factors", "0 scales", "4.0"),
    ("trunk", setting("config.global_attn_indexes", [2]),
     "global blocks", "config.global_attn_indexes", "[1, 2]", "[2]"),
    ("trunk", setting("layers.1.config.image_size", 140),
     "image size", "layers.1.config.image_size", "126 x 126 pixels", "140 x 140 pixels"),
    ("trunk", shorter("layers.0", "position_ids"),
     "rope table", "layers.0.position_ids", "3 x 3 rows", "4"),
    ("tracker", setting("prompt_encoder.image_embedding_size", (72, 72)),
     "embedding size", "prompt_encoder.image_embedding_size", "9 x 9", "72 x 72"),
    ("tracker", setting("prompt_encoder.mask_input_size", (288, 288)),
     "masks", "prompt_encoder.mask_input_size", "36 x 36, 4 times the grid 9 x 9", "288 x 288"),
    ("meta", setting(f"{TRUNK}.full_attn_ids", [1]),
     "global blocks", f"{TRUNK}.full_attn_ids", "[1, 3]", "[1]"),
    ("meta", real(f"{TRUNK}.blocks.0.attn"),
     "rope table", f"{TRUNK}.blocks.0.attn.freqs_cis", "complex", "float32 of shape (9, 4, 2)"),
    ("meta", shorter(f"{TRUNK}.blocks.1.attn", "freqs_cis"),
     "rope table", f"{TRUNK}.blocks.1.attn.freqs_cis", "9 x 9 rows", "4"),
    ("meta", setting(f"{TRUNK}.blocks.3.attn.input_size", (10, 8)),
     "rope table", f"{TRUNK}.blocks.3.attn.freqs_cis", "9 x 9", "8 x 10"),
    ("meta", setting("detector.num_feature_levels", 4),
     "feature maps", "detector.num_feature_levels", "at most 3", "4"),
    ("meta", setting("detector.backbone.vision_backbone.scale_factors", (4.0, 2.0)),
     "feature maps", "detector.backbone.vision_backbone.scale_factors", "4 scales", "[4.0, 2.0]"),
    ("meta", setting("tracker.image_size", 1024),
     "tracker size", "tracker.image_size", "126 x 126", "1024"),
    ("meta", setting("tracker.backbone_stride", 16),
     "tracker size", "tracker.backbone_stride", "14 x 14", "16"),
    ("meta", setting("tracker.sam_image_embedding_size", 72),
     "tracker size", "tracker.sam_image_embedding_size", "9 x 9", "72"),
    ("meta", setting("tracker.low_res_mask_size", 288),
     "tracker size", "tracker.low_res_mask_size", "36 x 36", "288"),
    ("meta", setting("tracker.input_mask_size", 1152),
     "tracker size", "tracker.input_mask_size", "144 x 144", "1152"),
    ("meta", setting("tracker.maskmem_backbone.mask_downsampler.interpol_size", [288, 288]),
     "memory size", "tracker.maskmem_backbone.mask_downsampler.interpol_size", "9 x 9", "18 x 18"),
    ("meta", setting("tracker.transformer.encoder.layers.0.self_attn.freqs_cis",
                     torch.ones(5184, 4, dtype=torch.complex64)),
     "memory table", "tracker.transformer.encoder.layers.0.self_attn.freqs_cis", "81", "5184"),
    ("meta", setting("tracker.sam_prompt_encoder.mask_input_size", (288, 288)),
     "masks", "tracker.sam_prompt_encoder.mask_input_size", "36 x 36", "288 x 288"),
]  # fmt: skip


@pytest.mark.parametrize("case", BROKEN, ids=lambda c: f"{c[0]}-{c[3]}")
def test_each_relation_that_is_broken_is_named_with_its_place_and_both_values(
    case: tuple[str, Break, str, str, str, str],
) -> None:
    name, make, contract, where, wanted, found = case
    model = MODELS[name]()
    make(model)
    one = only(broken(model), contract, where)
    assert wanted in one.wanted
    assert found in one.found


def breaks(model: Any, size: tuple[int, int]) -> bool:
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, *size))
    except (RuntimeError, AssertionError):
        return True
    return False


SIDES = st.sampled_from([14, 42, 112, 125, 126, 127, 139, 140, 378])


@settings(max_examples=25, deadline=None)
@given(SIDES, SIDES, st.booleans())
def test_the_contract_holds_only_for_the_tables_own_grid_and_wherever_a_forward_breaks_it_does_not(
    high: int, wide: int, complex_table: bool
) -> None:
    model = Trunk() if complex_table else models.sam3_trunk()
    found = broken(model, pixel_values=image(high, wide))
    assert bool(found) == ((high, wide) != (126, 126))
    assert found or not breaks(model, (high, wide))


def test_a_grid_of_as_many_patches_in_another_shape_runs_and_is_named_all_the_same() -> None:
    model = models.sam3_trunk()
    assert not breaks(model, (42, 378))
    one = only(broken(model, pixel_values=image(42, 378)), "image size", "inputs.pixel_values")
    assert "3 x 27 patches" in one.found


def test_the_advice_on_an_image_of_another_size_mends_the_model() -> None:
    import surgery

    for model in (models.sam3(), Trunk()):
        with surgery.apply(model, {"use": "rope", "with": {"image_size": 140}}) as done:
            assert broken(done.model, pixel_values=image(140, 140)) == []
            assert broken(done.model, pixel_values=image(126, 126)) != []
