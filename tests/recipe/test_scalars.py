from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.recipe.scalars import LONGEST_NUMBER, resolve


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-.5e1", -5.0), ("+1", 1),
        ("010", 10), ("0o10", 8), ("0x1F", 31), ("true", True), ("FALSE", False), ("~", None),
        ("", None), ("Null", None), (".inf", math.inf), ("-.Inf", -math.inf), ("1e400", math.inf),
    ],
)  # fmt: skip
def test_core_scalars_are_values(text: str, value: object) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    ["on", "off", "yes", "no", "y", "n", "On", "NO", "1:30", "1_000", "0b11", "2024-01-01", "e5",
     ".", "-", "+", "1e", "0x", "0o9", "1.2.3", "tRue", "nul", "<<"],
)  # fmt: skip
def test_what_yaml_1_1_made_of_other_words_is_plain_text_here(text: str) -> None:
    assert resolve(text) == text


def test_not_a_number_is_one() -> None:
    assert math.isnan(resolve(".nan"))  # type: ignore[arg-type]


def test_endless_numbers_are_refused() -> None:
    assert resolve("1" * LONGEST_NUMBER) == int("1" * LONGEST_NUMBER)
    for text in ("1" * 5000, "0x" + "f" * 60_000, "0." + "1" * 200):
        with pytest.raises(ValueError, match="digits"):
            resolve(text)


@given(st.text(max_size=30))
def test_any_text_is_a_scalar(text: str) -> None:
    assert isinstance(resolve(text), str | int | float | bool | None)


@given(st.integers(-(10**50), 10**50))
def test_integers_come_back(number: int) -> None:
    assert resolve(str(number)) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back(number: float) -> None:
    assert resolve(repr(number)) == number
