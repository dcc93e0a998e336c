"""Laws of ``cldr-names``: what is judged by was never seen, in any language."""

from __future__ import annotations

from collections import Counter

import pytest

from surgery.errors import RecipeError
from surgery_plugins.data.cldr_names import LANGUAGES, CldrNames, _named, _part_of


def test_each_language_has_as_many_names() -> None:
    samples = CldrNames(part="train", count=300).open()
    found = Counter(samples[number]["label"] for number in range(len(samples)))
    assert found == dict.fromkeys(LANGUAGES, 10)
    assert len(LANGUAGES) == 30


def test_no_thing_is_in_both_parts_and_no_name_in_two_languages() -> None:
    parts = {part: CldrNames(part=part, count=2100).open() for part in ("train", "test")}
    texts = {part: {one["text"].casefold() for one in rows} for part, rows in parts.items()}
    assert not texts["train"] & texts["test"]
    owners: dict[str, set[str]] = {}
    for rows in parts.values():
        for one in rows:
            owners.setdefault(one["text"].casefold(), set()).add(one["label"])
    assert {len(languages) for languages in owners.values()} == {1}
    things = {text: _part_of(item) for item, text in _named("is")}
    assert all(
        things[one["text"]] == part for part, rows in parts.items() for one in rows
        if one["label"] == "is"
    )  # fmt: skip


def test_the_seed_alone_decides_what_is_drawn() -> None:
    one, two, other = (CldrNames(part="train", count=300, seed=s).open() for s in (1, 1, 2))
    assert list(one) == list(two)
    assert list(one) != list(other)


@pytest.mark.parametrize(("count", "message"), [(31, "a multiple of 30"), (60000, "names to test")])
def test_counts_that_cannot_be_are_refused(count: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        CldrNames(part="test", count=count).open()
