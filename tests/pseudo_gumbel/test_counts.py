"""Places, cells and tokens of masks are counted for each sample, before anything is run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import TrainingError
from surgery_plugins.objectives.pseudo_gumbel.prompts import allowed_of
from surgery_plugins.objectives.pseudo_gumbel.region import cells_of, side_of
from surgery_plugins.objectives.pseudo_gumbel.splice import batched, runs, spliced
from tests.pseudo_gumbel import kit
from tests.segmentation.kit import disc


@pytest.fixture(scope="module")
def owner() -> Any:
    return kit.patient()


def encoded(owner: Any, one: Any, **change: Any) -> Any:
    return one.encode({**disc(0), **change}, owner, None)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 50))
def test_a_region_has_as_many_places_in_the_text_as_cells_and_there_may_be_none(
    top: int, left: int, size: int
) -> None:
    patient = _PATIENT
    mask = torch.zeros(112, 112, dtype=torch.bool)
    mask[top : top + size, left : left + size] = True
    sample = {"image": disc(0, 112, 112)["image"], "mask": mask.numpy()}
    row = kit.objective().encode(sample, patient, None)  # type: ignore[arg-type]
    token = patient.config.vlm_config.image_token_id
    cells = cells_of(mask, kit.SIDE)
    assert torch.equal(row["cells"], cells)
    assert int((row["ask"] == token).sum()) == kit.PLACES + int(cells.sum())
    assert int((row["before"] == token).sum()) == kit.PLACES


_PATIENT = kit.patient()


def test_cells_lie_as_the_places_of_the_image_do(owner: Any) -> None:
    patches = torch.arange(64.0).reshape(1, 8, 8, 1).expand(-1, -1, -1, 4).contiguous()
    shuffled = owner.model.vlm.model.pixel_shuffle(patches, 0.5).reshape(16, -1)
    mask = torch.zeros(112, 112, dtype=torch.bool)
    mask[28:56, 84:112] = True
    (place,) = cells_of(mask, kit.SIDE).nonzero().flatten().tolist()
    rows, columns = shuffled[place].long() // 8, shuffled[place].long() % 8
    assert set(rows.tolist()) == {2, 3}
    assert set(columns.tolist()) == {6, 7}


def test_a_region_without_a_cell_stays_one_unless_the_recipe_asks_for_more(owner: Any) -> None:
    mask = disc(0)["mask"] & False
    mask[0, 0] = True
    assert int(encoded(owner, kit.objective(), mask=mask)["cells"].sum()) == 0
    with pytest.raises(ValueError, match="region of 1 cells at least, got 0 of 16"):
        encoded(owner, kit.objective(least_cells=1), mask=mask)
    batch = kit.batch(owner, kit.objective(), 2, mask=mask)
    assert torch.isfinite(kit.objective().step(owner.model.requires_grad_(True), batch).loss)


def test_places_that_make_no_square_have_no_regions() -> None:
    with pytest.raises(ValueError, match="15 places, which make no square"):
        side_of(15)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"answer": "It is."}, "expected .SEG. once in answer"),
        ({"answer": "[SEG] and [SEG]."}, "expected .SEG. once in answer"),
        ({"ask": "{region} Describe."}, "expected {image} once in ask, got it 0"),
        ({"ask": "{region}{image}"}, "expected {image} before {region} in ask"),
        ({"ask": "{image}{region}{region}"}, "expected {region} once in ask, got it 2"),
        ({"point": "{image} Segment."}, "expected {caption} once in point"),
        ({"point": "{image}{region}{caption}"}, "expected {region} never in point"),
        ({"bce": 0.0, "dice": 0.0}, "weight above 0"),
    ],
)
def test_templates_that_cannot_work_are_mistakes_of_the_recipe(
    options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        kit.objective(**options)


def test_a_template_with_the_token_of_masks_elsewhere_is_named(owner: Any) -> None:
    one = kit.objective(point="{image} a [SEG] of {caption}")
    with pytest.raises(ValueError, match=r"once, in `answer`, got 1 in `before`, 1 in `answer`"):
        encoded(owner, one)


def test_a_text_that_spells_the_image_token_is_named(owner: Any) -> None:
    one = kit.objective(ask=f"{kit.SLOT}{{image}}{{region}}")
    with pytest.raises(ValueError, match=r"in the text `ask`.*got 2\d"):
        encoded(owner, one)


@pytest.mark.parametrize("missing", ["image", "mask"])
def test_a_sample_without_image_or_mask_fails(owner: Any, missing: str) -> None:
    sample = {key: value for key, value in disc(0).items() if key != missing}
    with pytest.raises(ValueError, match=f"without `{missing}`"):
        kit.objective().encode(sample, owner, None)  # type: ignore[arg-type]


def test_a_later_frame_is_read_where_it_is_learned(owner: Any) -> None:
    one, later = kit.objective(next=True), disc(5)
    with pytest.raises(ValueError, match="without `next_image`"):
        encoded(owner, one)
    row = encoded(owner, one, next_image=later["image"], next_mask=later["mask"])
    alone = kit.objective().encode(later, owner, None)  # type: ignore[arg-type]
    assert torch.equal(row["target"], alone["target"])
    assert torch.equal(row["next_pixel_values"], alone["pixel_values"])
    assert torch.equal(row["cells"], encoded(owner, kit.objective())["cells"])
    batch = kit.batch(owner, one, 2, next_image=later["image"], next_mask=later["mask"])
    assert torch.isfinite(one.step(owner.model.requires_grad_(True), batch).loss)


def test_captions_are_made_of_words_alone(owner: Any) -> None:
    words = owner.tokenizer
    allowed = set(allowed_of(words, len(words)).tolist())
    for token in ("[SEG]", kit.SLOT, "<img>", "</s>", "<pad>"):
        assert words.convert_tokens_to_ids(token) not in allowed
    assert words.convert_tokens_to_ids("a") in allowed
    assert max(allowed_of(words, 100).tolist()) < 100


@pytest.mark.parametrize("places", [0, 3, 5])
def test_places_and_embeddings_that_differ_stop_everything(places: int) -> None:
    ids = torch.tensor([1, *[9] * places, 2])
    with pytest.raises(TrainingError, match=f"4 places, one for each embedding, got {places}"):
        spliced(torch.zeros(len(ids), 3), ids, 9, torch.ones(4, 3), "ask")


def test_embeddings_stand_in_their_places_in_order_with_their_gradient() -> None:
    ids, given = torch.tensor([1, 9, 2, 9, 9]), torch.arange(6.0).reshape(3, 2).requires_grad_()
    found = spliced(torch.zeros(5, 2), ids, 9, given, "ask")
    assert torch.equal(found[[1, 3, 4]], given)
    assert not bool(found[[0, 2]].any())
    found.sum().backward()
    assert given.grad is not None
    assert bool((given.grad == 1).all())
    assert runs(ids, 9) == "in stretches of 1, 2"
    assert runs(ids, 5) == "no stretch"


@pytest.mark.parametrize("left", [False, True])
def test_texts_of_several_lengths_keep_their_values(left: bool) -> None:
    texts = [torch.full((length, 2), float(length)) for length in (3, 1, 4)]
    made, mask = batched(texts, left)
    assert made.shape == (3, 4, 2)
    for row, keep, text in zip(made, mask, texts, strict=True):
        assert torch.equal(row[keep.bool()], text)
        assert not bool(row[~keep.bool()].any())
        assert bool(keep[-1 if left else 0])


def test_another_size_of_the_tables_is_named(owner: Any) -> None:
    words = kit.tokenizer("[SEG]", "<more>")
    model = kit.grounded(kit.tokenizer()).requires_grad_(True)
    patient = replace(owner, tokenizer=words, model=model, config=model.config)
    why = kit.objective().refuse(patient)
    assert why is not None
    assert "below 343" in why or "343 rows" in why
