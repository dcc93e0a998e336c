"""An image of another size: places in the prompt and the processor follow, and come back."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers.image_utils import SizeDict

import surgery
from surgery.hooks.registry import registry
from surgery.operate.patient import Patient
from tests.resampler import kit
from tests.resampler.kit import HOSTS, IMAGE
from tests.rope.kit import assert_as_fresh, run


def step(use: str = "pos_embed", **options: Any) -> dict[str, Any]:
    return {"use": use, "at": {"path": "**.vision_{tower,model}"}, "with": options}


def patient_of(host: str, **processor: Any) -> Patient:
    model = HOSTS[host]()
    return Patient(model, model.config, processor=SimpleNamespace(**processor))


def broken(patient: Patient) -> list[str]:
    families = [family for family in registry().families() if family.matches(patient.model)]
    return [str(one) for family in families for one in family.contracts(patient)]


def test_internvl_of_another_size_is_as_one_built_for_it() -> None:
    patient = patient_of("internvl", image_seq_length=4)
    before, config = kit.state(patient.model), deepcopy(patient.model.config.to_dict())
    applied = surgery.apply(patient, step(image_size=64))
    fresh = kit.internvl().config.to_dict()
    fresh["vision_config"]["image_size"], fresh["image_seq_length"] = [64, 64], 16
    assert patient.model.config.to_dict() == fresh
    assert patient.processor.image_seq_length == 16
    assert_as_fresh(patient.model)
    assert broken(patient) == []
    pixels = torch.zeros(1, 3, 64, 64)
    ids = torch.tensor([[1, *[IMAGE] * 16, 5]])
    assert patient.model(input_ids=ids, pixel_values=pixels).logits.shape[:2] == (1, 18)
    applied.undo()
    assert patient.model.config.to_dict() == config
    assert patient.processor.image_seq_length == 4
    assert kit.equal(before, kit.state(patient.model))


@pytest.mark.parametrize(
    ("host", "processor", "places"),
    [("llava", {}, {}), ("idefics2", {"image_seq_len": 5}, {"image_seq_len": 5}),
     ("idefics3", {"image_seq_len": 4}, {"image_seq_len": 16})],
)  # fmt: skip
def test_every_host_counts_its_places_anew(
    host: str, processor: dict[str, int], places: dict[str, int]
) -> None:
    patient = patient_of(host, **processor)
    surgery.apply(patient, step(image_size=64))
    assert {key: vars(patient.processor)[key] for key in places} == places
    assert getattr(patient.config, "image_seq_length", 64) == 64
    assert broken(patient) == []


def test_a_connector_that_was_placed_counts_for_itself() -> None:
    patient = patient_of("internvl", image_seq_length=4)
    surgery.apply(patient, kit.step("avg_pool"))
    with pytest.raises(surgery.SurgeryError):
        surgery.apply(patient, step(image_size=40))
    assert patient.config.image_seq_length == 4


def test_llavas_processor_cuts_images_as_the_model_does() -> None:
    patient = patient_of("llava", patch_size=8, vision_feature_select_strategy="default",
                         num_additional_image_tokens=1)  # fmt: skip
    assert broken(patient) == []
    surgery.apply(patient, step("patch_embed", patch_size=4))
    assert patient.processor.patch_size == 4
    assert patient.config.image_seq_length == 64
    assert broken(patient) == []


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [
        ({"size": {"height": 32, "width": 32}}, {"size": {"height": 48, "width": 48}}),
        (
            {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
            {"size": {"shortest_edge": 60}, "crop_size": {"height": 48, "width": 48}},
        ),
        ({"size": {"height": 40, "width": 40}}, {"size": {"height": 40, "width": 40}}),
    ],
)
def test_an_image_processor_gives_images_of_the_models_size(
    stated: dict[str, Any], wanted: dict[str, Any], tmp_path: Path
) -> None:
    transformers.utils.logging.set_verbosity_error()
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "intermediate_size": 24}
    config = transformers.ViTConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)
    transformers.ViTModel(config).save_pretrained(tmp_path / "base")
    crops = {"do_center_crop": "crop_size" in stated}
    transformers.CLIPImageProcessor(**{**stated, **crops}).save_pretrained(tmp_path / "base")
    (tmp_path / "recipe.yaml").write_text(
        "recipe: 1\npatient: {source: hf, path: ./base}\noutput: {path: ./out, save: full}\n"
        "surgeries: [{use: pos_embed, with: {image_size: 48}}]\n"
    )
    run("apply", tmp_path / "recipe.yaml")
    read = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert {key: dict(getattr(read, key)) for key in wanted} == wanted
    whole = transformers.AutoModel.from_pretrained(tmp_path / "out")
    assert whole.config.image_size == 48


def test_sizes_that_are_mappings_or_not_square_grow_too() -> None:
    image = SimpleNamespace(
        size=SizeDict(longest_edge=128), max_image_size={"longest_edge": 32}, pad_size=None
    )
    patient = patient_of("idefics3", image_processor=image)
    surgery.apply(patient, step(image_size=64))
    assert image.size.longest_edge == 256
    assert image.max_image_size == {"longest_edge": 64}


def test_a_selection_that_leaves_the_table_out_is_told_which_one_does_not() -> None:
    patient = patient_of("internvl", image_seq_length=4)
    with pytest.raises(surgery.SurgeryError) as caught:
        surgery.apply(
            patient, {**step(image_size=64), "at": {"path": "**.vision_tower.encoder.**"}}
        )
    assert "`at: {path: model.vision_tower}`" in str(caught.value)
    surgery.apply(patient, {**step(image_size=64), "at": {"path": "model.vision_tower"}})


def test_a_tower_holds_its_table_of_positions() -> None:
    patient = patient_of("internvl", image_seq_length=4)
    surgery.apply(patient, {**step(image_size=64), "at": {"tower": "vision"}})
    assert patient.processor.image_seq_length == 16
