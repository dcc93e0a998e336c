"""The order of samples: all of them once in each epoch, and of about one length where asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import RefusedError
from surgery.training.feed import Order, Reading
from tests.objectives import kit
from tests.objectives.test_training import FAST, LORA, lines, trained, written
from tests.objectives.test_training import saved as saved_patient

COUNTS = {
    "count": st.integers(1, 90),
    "batch": st.sampled_from([2, 4, 6]),
    "seed": st.integers(0, 9),
}
LENGTHS = st.lists(st.integers(1, 9), min_size=90, max_size=90)


@given(**COUNTS, lengths=st.none() | LENGTHS, world=st.sampled_from([1, 2]))
def test_each_epoch_has_every_sample_once(
    count: int, batch: int, seed: int, lengths: list[int] | None, world: int
) -> None:
    orders = [Order(count, batch, batch // 2, seed, r, world, lengths) for r in range(world)]
    steps = orders[0].steps_of(2)
    seen = [
        place for step in range(steps) for order in orders
        for forward in order.places(step) for place in forward
    ]  # fmt: skip
    for epoch in range(2):
        assert sorted(number for at, number in seen if at == epoch) == list(range(count))
    assert [orders[0].places(step) for step in range(steps)] == [
        Order(count, batch, batch // 2, seed, 0, world, lengths).places(step)
        for step in range(steps)
    ]


@given(seed=st.integers(0, 99), lengths=LENGTHS)
def test_a_step_gets_samples_of_about_one_length(seed: int, lengths: list[int]) -> None:
    order = Order(90, 6, 6, seed, lengths=lengths)
    mixed = Order(90, 6, 6, seed)
    assert padded(order, lengths) <= padded(mixed, lengths)
    assert padded(order, lengths) - sum(lengths) <= 6 * 9  # as many steps as there are lengths


def padded(order: Order, lengths: list[int]) -> int:
    """Count the tokens of an epoch with those that pad."""
    batches = [[lengths[n] for _, n in order.places(step)[0]] for step in range(15)]
    return sum(max(batch) * len(batch) for batch in batches)


def test_texts_are_grouped_and_others_are_refused(tmp_path: Path) -> None:
    saved_patient(kit.classifier(), tmp_path / "base")
    texts = ["a cat", "a dog on a mat in the image", "the owl", "where is the cat on the mat?"]
    rows = [{"text": text, "label": "cat"} for text in texts * 3] + [{"text": "o", "label": "owl"}]
    written(tmp_path / "x.jsonl", rows)
    train = {
        "objective": {"use": "classification", "labels": ["cat", "dog", "owl"]},
        "data": {"use": "jsonl", "path": "./x.jsonl"}, "group_by_length": True, **FAST,
    }  # fmt: skip
    found = trained(tmp_path, train, [{"use": "freeze"}, LORA])
    assert len(lines(found, "loss")) == FAST["steps"]


def test_samples_without_tokens_are_refused() -> None:
    class Pixels:
        def encode(self, *args: object) -> dict[str, int]:
            return {"image": 1}

    reading = Reading([1, 2], Pixels(), None, 0)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="samples with input_ids, got ones with image"):
        reading.lengths()
