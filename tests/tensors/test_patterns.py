"""Laws of patterns: what is captured goes where the template says, and nothing else matches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.anatomy.glob import glob_regex
from surgery_plugins.surgeries.tensors.patterns import (
    captures_of,
    check_template,
    filled,
    matches,
    natural,
    regex_of,
)

part = st.text("ab01_-", min_size=1, max_size=4)
names = st.lists(part, min_size=1, max_size=5).map(".".join)


@given(names)
def test_a_name_without_signs_matches_itself_alone(name: str) -> None:
    assert list(matches(name, [name, name + "x", "x." + name])) == [(name, {})]


@given(names, part)
def test_one_capture_is_one_part(name: str, last: str) -> None:
    whole = f"{name}.{last}"
    assert list(matches(f"{name}.<x>", [whole, f"{whole}.more", name])) == [(whole, {"x": last})]


@given(st.lists(part, min_size=2, max_size=5), st.data())
def test_filling_the_pattern_again_gives_the_name(parts: list[str], data: st.DataObject) -> None:
    taken = data.draw(st.sets(st.integers(0, len(parts) - 1)))
    pattern = ".".join(f"<c{n}>" if n in taken else one for n, one in enumerate(parts))
    name = ".".join(parts)
    ((found, captured),) = matches(pattern, [name])
    assert (found, captured) == (name, {f"c{n}": parts[n] for n in taken})
    assert filled(pattern, captured) == name
    check_template(pattern, captures_of(pattern))


@given(names, names)
def test_a_capture_of_any_number_takes_all_parts_but_none(before: str, rest: str) -> None:
    found = dict(matches(f"{before}.<rest:**>", [f"{before}.{rest}", before, f"{before}."]))
    assert found == {f"{before}.{rest}": {"rest": rest}}


@given(part, part)
def test_a_capture_that_stands_twice_is_the_same_twice(one: str, two: str) -> None:
    assert bool(list(matches("<n>.x.<n>", [f"{one}.x.{two}"]))) == (one == two)


@given(names, st.sampled_from(["**", "**.x", "*", "a*", "[ab].*", "?.**", "{a,b}*.x"]))
def test_without_captures_a_pattern_is_a_glob(name: str, glob: str) -> None:
    import re

    assert bool(regex_of(glob).fullmatch(name)) == bool(re.fullmatch(glob_regex(glob), name))


def test_a_capture_may_be_a_glob() -> None:
    found = dict(matches("layers.<n:[01]*>.<kind:{q,k}>", ["layers.10.q", "layers.2.q"]))
    assert found == {"layers.10.q": {"n": "10", "kind": "q"}}


def test_numbers_are_sorted_as_numbers() -> None:
    assert sorted(["a.10", "a.9", "a.1"], key=natural) == ["a.1", "a.9", "a.10"]


@pytest.mark.parametrize("pattern", ["a.<", "a.<1>", "<n:>", "a>b", "<a b>"])
def test_what_is_no_capture_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="captures such as <n>"):
        regex_of(pattern)


@pytest.mark.parametrize(
    ("template", "message"),
    [("a.*", "captures alone"), ("a.<m>", r"\(<n>\), got <m>"), ("a.<n:**>", "got <n:")],
)
def test_a_template_is_a_name_with_known_captures(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_template(template, frozenset({"n"}))
