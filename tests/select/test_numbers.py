from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.anatomy.numbers import layer_range, ranges_text
from surgery.errors import RecipeError

COUNTS = st.integers(1, 40)


@given(COUNTS, st.data())
def test_a_negative_number_counts_from_the_end(count: int, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, count - 1))
    assert list(layer_range(str(number - count)).of(count)) == [number]
    assert layer_range(str(number - count)).fits(count)


@given(COUNTS, st.data())
def test_a_range_holds_both_ends_and_every_stride(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first, count - 1))
    stride = data.draw(st.integers(1, 5))
    found = layer_range(f"{first}-{last}/{stride}").of(count)
    assert list(found) == [
        n for n in range(count) if first <= n <= last and not (n - first) % stride
    ]
    from_end = layer_range(f"{first}-{last - count}/{stride}")
    assert list(from_end.of(count)) == list(found)
    assert from_end.fits(count)


@given(COUNTS, st.integers(-60, 60))
def test_what_a_container_lacks_does_not_fit(count: int, number: int) -> None:
    assert layer_range(str(number)).fits(count) == (-count <= number < count)


@given(st.integers(5, 20), st.integers(1, 4))
def test_a_range_that_runs_backwards_in_a_small_container_is_empty_there(
    large: int, small: int
) -> None:
    found = layer_range("4--1")
    assert found.fits(large)
    assert not found.fits(small)
    assert list(found.of(small)) == []


@pytest.mark.parametrize(
    "text",
    ["", "a", "1.5", "4-", "-", "--1", "1-2-3", "4/0", "4/-1", "4:2", "9-4", "-1--3", "٣", "1e2"],
)
def test_other_text_is_an_error_that_says_what_to_write(text: str) -> None:
    with pytest.raises(RecipeError, match=r"at\.layers: expected a (layer|range)"):
        layer_range(text, "at.layers")


def test_a_huge_number_costs_nothing() -> None:
    assert not layer_range("0-999999999").fits(12)
    assert 11 in layer_range("0-999999999").of(12)


@given(st.sets(st.integers(0, 50)))
def test_ranges_name_exactly_the_numbers(numbers: set[int]) -> None:
    parts = [part.partition("-") for part in ranges_text(numbers).split(",") if part]
    named = [n for first, _, last in parts for n in range(int(first), int(last or first) + 1)]
    assert named == sorted(numbers)
    assert all(b - a > 1 for a, b in zip(
        [int(last or first) for first, _, last in parts],
        [int(first) for first, _, _ in parts][1:], strict=False,
    ))  # fmt: skip


def test_ranges_are_short() -> None:
    assert ranges_text([8, 3, 4, 5, 3]) == "3-5,8"
