"""LLaVA, InternVL and Idefics: tower, connector, language model, prompt and inputs fit."""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from surgery.operate.patient import Patient
from tests.families.kit import Break, broken, broken_of, image, known_by, only, setting
from tests.resampler.kit import HOSTS, IMAGE, PATHS

transformers = pytest.importorskip("transformers")
PLACES = {"llava": 16, "internvl": 4, "idefics2": 5, "idefics3": 4}


def prompt(places: int, token: int = IMAGE) -> torch.Tensor:
    return torch.tensor([[1, *[token] * places, 2]])


def pictures(name: str, count: int = 1, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    """Give images as a model takes them: Idefics wants a list, and leaves out empty ones."""
    shape = (1, count, 3, *size) if name.startswith("idefics") else (count, 3, *size)
    return torch.ones(shape)


@pytest.mark.parametrize("name", HOSTS)
def test_a_sound_model_keeps_every_contract(name: str) -> None:
    model = HOSTS[name]()
    assert known_by(model) == ["vision-language"]
    assert broken(model) == []
    assert broken(model, pixel_values=pictures(name), input_ids=prompt(PLACES[name])) == []


def test_the_default_configuration_of_internvl_keeps_every_contract() -> None:
    with torch.device("meta"):
        model = transformers.InternVLForConditionalGeneration(transformers.InternVLConfig())
    assert broken(model, pixel_values=image(448, 448)) == []


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_prompt_is_accepted_if_and_only_if_the_model_accepts_it(name: str, off: int) -> None:
    model, places = HOSTS[name](), PLACES[name] + off
    inputs = {"pixel_values": pictures(name), "input_ids": prompt(places)}
    found = broken(model, **inputs)
    assert bool(found) == bool(off)
    if off:
        one = only(found, "places in the prompt", "inputs.input_ids")
        assert one.wanted == f"{PLACES[name]} places: 1 image of {PLACES[name]} tokens"
        assert one.found == f"{places} of id {IMAGE}"
        with pytest.raises((ValueError, RuntimeError)), torch.no_grad():
            model(**inputs)
    else:
        with torch.no_grad():
            model(**inputs)


@pytest.mark.parametrize("name", HOSTS)
def test_places_are_counted_over_all_images(name: str) -> None:
    inputs = {"pixel_values": pictures(name, 2), "input_ids": prompt(2 * PLACES[name])}
    assert broken(HOSTS[name](), **inputs) == []
    inputs["input_ids"] = prompt(PLACES[name])
    assert (
        "2 images"
        in only(broken(HOSTS[name](), **inputs), "places in the prompt", "inputs.input_ids").wanted
    )


def linear(path: str, into: int, out: int) -> Break:
    def apply(model: Any) -> None:
        above, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(above), leaf, nn.Linear(into, out, device="meta"))

    return apply


def rows(path: str, count: int) -> Break:
    def apply(model: Any) -> None:
        owner = model.get_submodule(path)
        owner.weight = nn.Parameter(torch.zeros(count, owner.weight.shape[1]))

    return apply


LLAVA, INTERNVL = PATHS["llava"], PATHS["internvl"]
BROKEN: list[tuple[str, Break, str, str, str, str]] = [
    ("llava", linear(f"{LLAVA}.linear_1", 48, 24), "connector input", f"{LLAVA}.linear_1.weight",
     "32, the width 32 of model.vision_tower", "48"),
    ("llava", linear(f"{LLAVA}.linear_2", 24, 40), "connector output", f"{LLAVA}.linear_2.weight",
     "24, the width of the language model's tokens", "40"),
    ("llava", setting("model.config.vision_feature_layer", [-2, -1]), "connector input",
     f"{LLAVA}.linear_1.weight", "64, the width 32 of model.vision_tower x 2 layers", "32"),
    ("llava", setting("model.config.image_token_id", 64), "image token", "config.image_token_id",
     "an id below 64", "64"),
    ("llava", rows("model.vision_tower.embeddings.position_embedding", 10), "position table",
     "model.vision_tower.embeddings.position_embedding.weight", "17 rows: 4 x 4 patches", "10"),
    ("internvl", setting("model.config.downsample_ratio", 0.25), "connector input",
     f"{INTERNVL}.layer_norm.weight", "512, the width 32", "128"),
    ("internvl", setting("config.image_seq_length", 256), "places in the prompt",
     "config.image_seq_length", "4, the tokens", "256"),
    ("internvl", setting("model.config.image_token_id", 99), "image token",
     "config.image_token_id", "an id below 64", "99"),
    ("idefics3", setting("model.config.scale_factor", 3), "joined patches",
     "model.vision_model.config.image_size", "multiples of 3", "4 x 4"),
    ("idefics3", linear("model.connector.modality_projection.proj", 32, 24), "connector input",
     "model.connector.modality_projection.proj.weight", "128, the width 32", "32"),
    ("idefics2", linear("model.connector.modality_projection.gate_proj", 48, 24),
     "connector input", "model.connector.modality_projection.gate_proj.weight", "32", "48"),
]  # fmt: skip


@pytest.mark.parametrize("case", BROKEN, ids=lambda c: f"{c[0]}-{c[2]}")
def test_each_relation_that_is_broken_is_named_with_its_place_and_both_values(
    case: tuple[str, Break, str, str, str, str],
) -> None:
    name, make, contract, where, wanted, found = case
    model = HOSTS[name]()
    make(model)
    one = only(broken(model), contract, where)
    assert wanted in one.wanted
    assert found in one.found


@pytest.mark.parametrize(
    ("name", "attributes", "where"),
    [
        ("llava", {"patch_size": 14, "vision_feature_select_strategy": "default",
                   "num_additional_image_tokens": 1}, "processor"),
        ("internvl", {"image_seq_length": 256}, "processor.image_seq_length"),
        ("idefics2", {"image_seq_len": 64}, "processor.image_seq_len"),
        ("idefics3", {"image_seq_len": 169}, "processor.image_seq_len"),
    ],
)  # fmt: skip
def test_a_processor_that_makes_another_number_of_places_is_named(
    name: str, attributes: dict[str, Any], where: str
) -> None:
    model = HOSTS[name]()
    owner = Patient(model, config=model.config, processor=SimpleNamespace(**attributes))
    one = only(broken_of(owner), "places in the prompt", where)
    assert one.wanted.startswith(f"{PLACES[name]}, the tokens")


def test_a_processor_that_fits_is_not() -> None:
    model = HOSTS["llava"]()
    fit = SimpleNamespace(
        patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    assert broken_of(Patient(model, config=model.config, processor=fit)) == []


def test_an_image_token_of_another_id_in_the_processor_is_named() -> None:
    model = HOSTS["internvl"]()
    processor = SimpleNamespace(image_seq_length=4, image_token_id=59)
    owner = Patient(model, config=model.config, processor=processor)
    one = only(broken_of(owner), "image token", "config.image_token_id")
    assert (one.wanted, one.found) == ("59, as processor.image_token_id", str(IMAGE))


@lru_cache
def made(name: str) -> Any:
    return HOSTS[name]()


SIDES = st.integers(2, 9).map(lambda n: 8 * n) | st.integers(17, 70)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(HOSTS)), SIDES, SIDES)
def test_wherever_an_image_breaks_the_tower_or_the_connector_the_contract_does_not_hold(
    name: str, high: int, wide: int
) -> None:
    model = made(name)
    images = pictures(name, 1, (high, wide))
    found = broken(model, pixel_values=images)
    try:
        with torch.no_grad():
            model.model.get_image_features(images)
    except (RuntimeError, ValueError):
        assert found
    if high == wide == 32:
        assert not found
    assert all(one.instead for one in found)


@pytest.mark.parametrize("name", ["internvl", "idefics3"])
def test_patches_that_are_joined_must_be_a_square_also_where_their_number_is_one(name: str) -> None:
    found = broken(HOSTS[name](), pixel_values=pictures(name, 1, (16, 64)))
    one = only(found, "image size", "inputs.pixel_values")
    assert one.wanted.endswith("as those of a square grid")
    assert one.instead == "use images of 64 x 64 pixels"


def test_a_fixed_tower_names_its_size_its_table_and_the_nearest_size_it_could_have() -> None:
    one = only(broken(HOSTS["llava"](), pixel_values=image(44, 44)), "image size",
               "inputs.pixel_values")  # fmt: skip
    table = "model.vision_tower.embeddings.position_embedding.weight"
    assert one.wanted == f"32 x 32 pixels: 4 x 4 patches of 8 x 8, as {table} has"
    assert "image_size: 48" in one.instead or "image_size: 40" in one.instead


def test_the_advice_on_an_image_of_another_size_mends_the_model() -> None:
    import surgery

    with surgery.apply(HOSTS["llava"](), {"use": "pos_embed", "with": {"image_size": 48}}) as done:
        assert broken(done.model, pixel_values=image(48, 48)) == []
        assert broken(done.model, pixel_values=image(32, 32)) != []
