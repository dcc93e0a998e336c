"""SAM 2: every relation that the modules state holds, and each, once broken, is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.families.kit import Break, broken, image, known_by, only, setting
from tests.families.meta_sam2 import WIDTH, MetaSam2, meta_sam2
from tests.rope import kit as models
from tests.segmentation.kit import sam2_video

MODELS = {"model": models.sam2, "video": sam2_video, "meta": meta_sam2}


@pytest.mark.parametrize("name", MODELS)
def test_a_sound_model_keeps_every_contract(name: str) -> None:
    model = MODELS[name]()
    assert known_by(model) == ["sam2"]
    assert broken(model) == []
    assert broken(model, pixel_values=image(256, 256)) == []


def test_the_default_configurations_keep_every_contract() -> None:
    with torch.device("meta"):
        model = models.transformers.Sam2Model(models.transformers.Sam2Config())
        video = models.transformers.Sam2VideoModel(models.transformers.Sam2VideoConfig())
    assert broken(model, pixel_values=image(1024, 1024)) == []
    assert broken(video) == []


def narrow(path: str, leaf: str, shape: tuple[int, ...]) -> Break:
    def apply(model: Any) -> None:
        owner = model.get_submodule(path) if path else model
        setattr(owner, leaf, nn.Parameter(torch.zeros(shape)))

    return apply


def memory_rows(model: Any) -> None:
    model.memory_attention.position_ids = torch.zeros(64, 2, dtype=torch.int64)


def real_table(model: Any) -> None:
    layer = model.memory_attention.layers[1].self_attn
    layer.freqs_cis = layer.freqs_cis.real


def lost_table(model: Any) -> None:
    layer = model.memory_attention.layers[1].self_attn
    del layer.compute_cis
    layer.freqs_cis = layer.freqs_cis[:64]


PROMPTS = "prompt_encoder"
BROKEN: list[tuple[str, Break, str, str, str, str]] = [
    ("model", setting(f"{PROMPTS}.image_embedding_size", (8, 8)),
     "embedding size", f"{PROMPTS}.image_embedding_size", "16 x 16", "8 x 8"),
    ("model", setting(f"{PROMPTS}.mask_input_size", (256, 256)),
     "masks", f"{PROMPTS}.mask_input_size", "64 x 64, 4 times the grid 16 x 16", "256 x 256"),
    ("model", setting("backbone_feature_sizes", [[16, 16], [32, 32], [64, 64]]),
     "feature sizes", "backbone_feature_sizes", "64 x 64, 32 x 32, 16 x 16", "16 x 16, 32 x 32"),
    ("model", setting("config.prompt_encoder_config.image_size", 512),
     "configured size", "config.prompt_encoder_config.image_size", "256 x 256", "512 x 512"),
    ("model", setting("config.prompt_encoder_config.patch_size", 14),
     "configured size", "config.prompt_encoder_config.patch_size", "16 x 16", "14 x 14"),
    ("model", setting("config.vision_config.backbone_config.image_size", [512, 512]),
     "configured size", "config.vision_config.backbone_config.image_size", "256", "512"),
    ("model", setting("config.vision_config.backbone_feature_sizes", [[1, 1]] * 3),
     "configured size", "config.vision_config.backbone_feature_sizes", "64 x 64", "1 x 1"),
    ("model", narrow("", "no_memory_embedding", (1, 1, 16)),
     "width", "no_memory_embedding", f"{WIDTH}, the width of vision_encoder.neck", "16"),
    ("video", memory_rows, "memory table", "memory_attention.position_ids", "256 rows", "64 rows"),
    ("video", setting("config.memory_attention_rope_feat_sizes", [64, 64]),
     "configured size", "config.memory_attention_rope_feat_sizes", "16 x 16", "64 x 64"),
    ("meta", setting("sam_prompt_encoder.image_embedding_size", (64, 64)),
     "embedding size", "sam_prompt_encoder.image_embedding_size", "16 x 16", "64 x 64"),
    ("meta", setting("sam_prompt_encoder.mask_input_size", (256, 256)),
     "masks", "sam_prompt_encoder.mask_input_size", "64 x 64", "256 x 256"),
    ("meta", setting("sam_prompt_encoder.input_image_size", (1024, 1024)),
     "image size", "sam_prompt_encoder.input_image_size", "256 x 256", "1024 x 1024"),
    ("meta", setting("backbone_stride", 8), "stride", "backbone_stride", "16, the trunk", "8"),
    ("meta", setting("sam_image_embedding_size", 64),
     "stride", "sam_image_embedding_size", "16", "64"),
    ("meta", setting("use_high_res_features_in_sam", False),
     "fine features", "use_high_res_features_in_sam", "True", "False"),
    ("meta", setting("num_feature_levels", 4),
     "fine features", "num_feature_levels", "at most 3", "4"),
    ("meta", narrow("", "no_mem_embed", (1, 1, 16)), "width", "no_mem_embed", "32", "16"),
    ("meta", real_table,
     "memory table", "memory_attention.layers.1.self_attn.freqs_cis", "complex", "float32"),
    ("meta", lost_table,
     "memory table", "memory_attention.layers.1.self_attn.freqs_cis", "256 rows", "64 rows"),
    ("meta", setting("memory_encoder.mask_downsampler", nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1))),
     "memory size", "memory_encoder.mask_downsampler", "16 x 16", "128 x 128"),
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


def test_a_table_that_the_module_builds_anew_for_any_square_grid_may_have_another_length() -> None:
    model = meta_sam2()
    for layer in model.memory_attention.layers:
        layer.self_attn.freqs_cis = layer.self_attn.freqs_cis[:64]
    assert broken(model) == []


@pytest.mark.parametrize("path", ["", "part.inner"])
def test_a_sam2_inside_another_model_is_checked_with_its_own_paths(path: str) -> None:
    outer: Any = nn.Module()
    outer.part = nn.Module()
    outer.part.inner = meta_sam2()
    outer.part.inner.backbone_stride = 8
    model = outer.part.inner if not path else outer
    only(broken(model), "stride", f"{path}.backbone_stride" if path else "backbone_stride")


def test_maps_that_the_neck_drops_move_the_grid() -> None:
    found = broken(meta_sam2(scalp=0))
    one = only(found, "stride", "backbone_stride")
    assert one.wanted.startswith("32")


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 9), st.booleans())
def test_a_model_of_any_size_is_sound_if_and_only_if_its_trunk_takes_that_image(
    windows: int, off: bool
) -> None:
    size = windows * 32 - (16 if off else 0)
    model = meta_sam2(image=size)
    found = broken(model)
    assert bool(found) == off
    try:
        maps = model.forward_image(torch.zeros(1, 3, size, size))
    except RuntimeError:
        assert off
    else:
        assert not off
        assert maps[-1].shape[-2:] == model.sam_prompt_encoder.image_embedding_size


def test_an_image_of_another_size_is_told_the_nearest_that_the_trunk_takes() -> None:
    one = only(broken(models.sam2(), pixel_values=image(500, 500)), "image size",
               "inputs.pixel_values")  # fmt: skip
    assert one.wanted.startswith("256 x 256 pixels: 16 x 16 cells of 16 pixels")
    assert "500 x 500 pixels, no multiple of 32" in one.found
    assert "image_size: 512" in one.instead
    assert (
        "build the model with image_size = 512"
        in only(
            broken(meta_sam2(), img_batch=image(500, 500)), "image size", "inputs.img_batch"
        ).instead
    )


def test_the_advice_on_an_image_of_another_size_mends_the_model() -> None:
    import surgery

    with surgery.apply(models.sam2(), {"use": "pos_embed", "with": {"image_size": 512}}) as done:
        assert broken(done.model, pixel_values=image(512, 512)) == []
        assert broken(done.model, pixel_values=image(256, 256)) != []


class TestCase000:
    """The mask decoder's inputs as a training script prepared them by hand."""

    model: MetaSam2
    maps: list[torch.Tensor]

    @pytest.fixture(autouse=True)
    def prepared(self) -> None:
        self.model = meta_sam2()
        with torch.no_grad():
            self.maps = self.model.forward_image(torch.zeros(1, 3, 256, 256))

    def test_as_the_model_itself_prepares_them_they_are_right(self) -> None:
        fit = self.model.sam_prompt_encoder
        assert broken(
            self.model, image_embeddings=self.maps[-1], high_res_features=self.maps[:-1],
            image_pe=fit.get_dense_pe(), masks=torch.zeros(2, 1, *fit.mask_input_size),
        ) == []  # fmt: skip

    def test_a_mask_of_the_videos_size_is_named_with_the_size_it_must_have(self) -> None:
        one = only(broken(self.model, masks=torch.zeros(1, 1, 720, 1280)), "mask size",
                   "inputs.masks")  # fmt: skip
        assert one.wanted == "64 x 64, sam_prompt_encoder.mask_input_size"
        assert one.found == "720 x 1280"
        assert "size=(64, 64)" in one.instead

    def test_the_finest_map_is_not_the_embedding_of_the_image(self) -> None:
        found = broken(self.model, image_embeddings=self.maps[0])
        assert only(found, "feature map", "inputs.image_embeddings").found == "64 x 64"

    def test_fine_maps_in_another_order_or_not_projected_are_named(self) -> None:
        for fine in (self.maps[1:], self.maps[:-1][::-1], [torch.zeros(1, 32, 64, 64)] * 2):
            one = only(broken(self.model, high_res_features=fine), "fine features",
                       "inputs.high_res_features")  # fmt: skip
            assert one.wanted.startswith("4 x 64 x 64, 8 x 32 x 32 (channels, rows, columns)")

    def test_positions_of_the_features_of_two_images_are_not_the_dense_ones(self) -> None:
        one = only(broken(self.model, image_pe=torch.zeros(2, WIDTH, 16, 16)), "dense positions",
                   "inputs.image_pe")  # fmt: skip
        assert "sam_prompt_encoder.get_dense_pe()" in one.instead
