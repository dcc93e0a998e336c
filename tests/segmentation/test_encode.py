"""Laws of preparation: image and mask move together, and nothing is drawn but from the seed."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from surgery.operate.patient import Patient
from surgery.training.feed import Reading
from surgery_plugins.objectives.segmentation import Segmentation
from surgery_plugins.objectives.segmentation.prompts import FIRST, INSIDE, SECOND
from tests.segmentation import kit

OWNER = Patient(torch.nn.Module())
PLAIN: dict[str, Any] = {"image_size": 64, **kit.COLOURS}


def encoded(sample: Mapping[str, Any], seed: int = 0, **options: Any) -> Mapping[str, Any]:
    objective = Segmentation(**{"prompt": "none", **PLAIN, **options})
    return objective.encode(sample, OWNER, Random(seed))


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())


class Discs:
    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        return kit.disc(number)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(0, 5), st.integers(0, 7))
def test_what_is_drawn_is_a_function_of_seed_epoch_and_number(
    seed: int, epoch: int, number: int
) -> None:
    objective = Segmentation(prompt="box", flip=0.5, **PLAIN)
    once, again = (Reading(Discs(), objective, OWNER, seed)[(epoch, number)] for _ in range(2))
    assert isinstance(once, dict)
    assert isinstance(again, dict)
    assert same(once, again)


def test_epochs_draw_differently() -> None:
    reading = Reading(Discs(), Segmentation(prompt="points", flip=0.5, **PLAIN), OWNER, 0)
    found: list[Any] = [reading[(epoch, 0)] for epoch in range(8)]
    assert len({tuple(one["points"].flatten().tolist()) for one in found}) > 4
    assert len({tuple(one["target"].flatten().tolist()) for one in found}) == 2


def test_a_mirrored_image_has_a_mirrored_mask() -> None:
    one, other = encoded(kit.disc(0), flip=0.0), encoded(kit.disc(0), flip=1.0)
    assert torch.equal(one["target"].flip(-1), other["target"])
    assert torch.allclose(one["pixel_values"].flip(-1), other["pixel_values"], atol=1e-5)
    assert not torch.equal(one["target"], other["target"])


@pytest.mark.parametrize(("high", "wide"), [(90, 160), (160, 90), (64, 64)])
def test_padding_keeps_the_shape_and_says_what_is_valid(high: int, wide: int) -> None:
    found = encoded(kit.disc(3, high, wide), fit="pad")
    assert found["pixel_values"].shape == (3, 64, 64)
    scale = 64 / max(high, wide)
    assert int(found["valid"].sum()) == round(high * scale) * round(wide * scale)
    assert not bool((found["target"] & ~found["valid"]).any())
    rows, columns = found["target"].nonzero().T
    heights = [int(one.max() - one.min()) for one in (rows, columns)]
    assert abs(heights[0] - heights[1]) <= 1  # a disc stays round
    assert bool(encoded(kit.disc(3, high, wide))["valid"].all())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 500), st.floats(0, 0.49))
def test_boxes_lie_in_the_image_around_the_object(number: int, jitter: float) -> None:
    found = encoded(kit.disc(number), number, prompt="box", jitter=jitter)
    (left, top), (right, bottom) = found["points"].tolist()
    assert found["labels"].tolist() == [FIRST, SECOND]
    assert 0 <= left < right <= 64
    assert 0 <= top < bottom <= 64
    if jitter == 0:
        rows, columns = found["target"].nonzero().T
        assert (left, right) == (int(columns.min()), int(columns.max()) + 1)
        assert (top, bottom) == (int(rows.min()), int(rows.max()) + 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 500))
def test_points_lie_in_the_object(number: int) -> None:
    found = encoded(kit.disc(number), number, prompt="points", points=3)
    assert found["labels"].tolist() == [INSIDE] * 3
    for column, row in found["points"].long().tolist():
        assert bool(found["target"][row, column])


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        ({"mask": numpy.zeros((90, 160))}, {"prompt": "box"}, "without an object"),
        ({"mask": numpy.zeros((90, 161))}, {}, "90 x 161 pixels for an image of 90 x 160"),
        ({"image": numpy.zeros((90, 160))}, {}, "not bytes of RGB"),
        ({}, {"prompt": "mask"}, "without `prompt`"),
        ({"text": ""}, {"prompt": "text"}, "without `text`"),
        ({}, {"also": [{"output": "view", "note": "angle"}]}, "numbers under `angle`"),
    ],
)
def test_samples_that_cannot_be_used_say_why(
    change: dict[str, Any], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        encoded({**kit.disc(0), **change}, **options)


def test_texts_are_padded_and_masked() -> None:
    objective = Segmentation(prompt="text", **PLAIN)
    owner = Patient(torch.nn.Module(), tokenizer=kit.tokenizer())
    samples = [{**kit.disc(0), "text": "a disc"}, kit.disc(1)]
    batch = kit.collated(objective, owner, samples)
    assert batch["input_ids"].tolist() == [[3, 2], [2, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert objective.weight(batch) == 2.0


@pytest.mark.parametrize(
    "wrong", [{"bce": 0.0, "dice": 0.0}, {"jitter": 0.5}, {"prompt": "word"}, {"points": 0}]
)
def test_options_without_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Segmentation(**{"prompt": "box", **wrong})
