"""2-d tables: for another image size, bit-equal to a model built for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.errors import RefusedError
from surgery.operate.patient import Patient
from surgery_plugins.families.sam3 import Sam3
from tests.rope import kit


def step(**options: Any) -> dict[str, Any]:
    return {"use": "rope", "with": options}


@pytest.mark.parametrize("build", [kit.sam3, kit.sam3_tracker, kit.sam3_video, kit.sam3_trunk])
def test_all_that_depends_on_the_image_is_as_in_a_fresh_model(build: Any) -> None:
    model = build()
    before, config = kit.bits(model), model.config.to_dict()
    applied = surgery.apply(model, step(image_size=168))
    kit.assert_as_fresh(model)
    assert next(c for c in applied.checks if c.name == "contracts of sam3").status == "passed"
    applied.undo()
    assert kit.same_bits(before, kit.bits(model))
    assert model.config.to_dict() == config


def test_a_trunk_answers_as_a_fresh_one_with_its_weights() -> None:
    model = kit.sam3_trunk()
    images = torch.randn(1, 3, 140, 140, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match=r"81|100"):
        model(images)
    surgery.apply(model, step(image_size=140))
    fresh = kit.sam3_trunk(image_size=140)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model(images).last_hidden_state, fresh(images).last_hidden_state)


def test_unequal_sides_are_rows_and_columns_whatever_the_class_reads() -> None:
    model = kit.sam3_trunk()
    surgery.apply(model, step(image_size=[126, 168]))
    kit.assert_as_fresh(model)
    table = model.layers[1].position_ids
    assert table.shape == (9 * 12, 2)
    assert torch.equal(table[12] - table[0], torch.tensor([0.0, table[1, 0]]))
    model(torch.zeros(1, 3, 126, 168))


def test_an_unequal_grid_of_the_same_count_is_another_table() -> None:
    model = kit.sam3_trunk()
    before = model.layers[1].position_ids.clone()
    surgery.apply(model, step(image_size=[42, 378]))
    assert model.layers[1].position_ids.shape == before.shape
    assert not torch.equal(model.layers[1].position_ids, before)
    kit.assert_as_fresh(model)


def test_a_trunk_is_planned_written_loaded_and_undone(tmp_path: Path) -> None:
    loaded = kit.round_trip(kit.sam3_trunk(), step(image_size=168), tmp_path)
    assert loaded.config.image_size == 168


@pytest.mark.slow
def test_a_whole_model_is_planned_written_loaded_and_undone(tmp_path: Path) -> None:
    model = kit.round_trip(kit.sam3(), step(image_size=168), tmp_path, architecture="Sam3Model")
    assert model.config.vision_config.backbone_config.image_size == 168
    assert model.config.vision_config.backbone_feature_sizes == [[48, 48], [24, 24], [12, 12]]


def test_positions_that_a_bfloat16_model_rounds_come_back_in_float32(tmp_path: Path) -> None:
    model = kit.sam3_trunk(image_size=182).to(torch.bfloat16)
    assert model.layers[1].position_ids.dtype == torch.bfloat16
    loaded = kit.round_trip(model, step(image_size=182), tmp_path)
    assert loaded.layers[1].position_ids.dtype == torch.float32
    loaded.half()
    assert loaded.layers[1].position_ids.dtype == torch.float32
    assert loaded.layers[0].rotary_emb.inv_freq.dtype == torch.float32
    kit.assert_as_fresh(loaded)


def test_a_size_that_is_no_whole_number_of_patches_names_the_nearest() -> None:
    with pytest.raises(RefusedError, match="nearest is 126 x 126, a grid of 9 x 9"):
        surgery.apply(kit.sam3_trunk(), step(image_size=128))


def test_only_the_selected_tower_changes() -> None:
    model = kit.sam3()
    at = {"path": "vision_encoder.backbone"}
    surgery.apply(model, {**step(image_size=168), "at": at})
    kit.assert_as_fresh(model)
    with pytest.raises(RefusedError, match="image_size"):
        surgery.apply(kit.sam3(), {**step(image_size=168), "at": {"path": "text_encoder"}})


def test_tables_of_weights_are_left_to_another_surgery() -> None:
    with pytest.raises(RefusedError, match="position_embeddings"):
        surgery.apply(kit.vit(), step(image_size=48))


def violations(model: Any, **inputs: Any) -> list[Any]:
    return list(Sam3().contracts(Patient(model, config=model.config, inputs=inputs or None)))


def test_the_family_says_which_image_fits_and_why() -> None:
    model = kit.sam3_trunk()
    assert violations(model, pixel_values=torch.zeros(1, 3, 126, 126)) == []
    (found,) = violations(model, pixel_values=torch.zeros(1, 3, 128, 128, device="meta"))
    assert found.wanted.startswith("126 x 126 pixels: 9 x 9 patches of 14 x 14")
    (found,) = violations(model, pixel_values=torch.zeros(1, 3, 42, 378))
    assert "3 x 27 patches" in found.found


def test_the_family_finds_a_size_that_was_set_by_hand() -> None:
    model = kit.sam3()
    assert violations(model) == []
    model.config.vision_config.backbone_config.image_size = 168
    assert {v.contract for v in violations(model)} == {"image size"}
    model = kit.sam3_tracker()
    model.prompt_encoder.mask_input_size = (36, 40)
    assert [v.contract for v in violations(model)] == ["masks"]
    model = kit.sam3()
    model.config.vision_config.backbone_feature_sizes = [[72, 72], [36, 36], [18, 18]]
    assert [v.contract for v in violations(model)][:1] == ["feature sizes"]
    model = kit.sam3_trunk()
    model.layers[2].position_ids = model.layers[2].position_ids[:-1]
    assert {v.contract for v in violations(model)} == {"rope table"}


def test_the_family_knows_only_such_trunks() -> None:
    assert Sam3().matches(kit.sam3())
    assert not Sam3().matches(kit.sam2())
    assert not Sam3().matches(kit.llama())
