from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import RecipeError, SurgeryError
from surgery.recipe import yaml as module
from surgery.recipe.dump import dump_yaml
from surgery.recipe.environment import expand
from surgery.recipe.nodes import MAX_DEPTH, plain
from surgery.recipe.yaml import MAX_BYTES, MAX_EVENTS, MAX_SCALAR, read_file, read_yaml


@pytest.fixture(params=["C", "pure"], autouse=True, scope="module")
def loader(request: pytest.FixtureRequest) -> Any:
    """Every law holds for libyaml and for the parser in pure Python."""
    before = module._LOADER
    module._LOADER = pyyaml.CSafeLoader if request.param == "C" else pyyaml.SafeLoader
    yield
    module._LOADER = before


def values(text: str | bytes) -> Any:
    document = read_yaml(text, "r.yaml")
    assert document.root is not None
    assert document.problems == ()
    return plain(document.root)


def fails(text: str | bytes) -> str:
    with pytest.raises(RecipeError) as caught:
        read_yaml(text, "r.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("r.yaml")
    return message


def test_values_are_those_of_yaml_1_2() -> None:
    text = "a: 2e-4\nb: on\nc: '5'\nd: [1, null, ~]\ne: {f: !x }".replace("!x ", "")
    assert values(text) == {"a": 2e-4, "b": "on", "c": "5", "d": [1, None, None], "e": {"f": None}}


def test_quoted_and_block_scalars_are_text() -> None:
    assert values("a: \"1\"\nb: '2'\nc: |\n  3\nd: >-\n  4") == {
        "a": "1", "b": "2", "c": "3\n", "d": "4",
    }  # fmt: skip


def test_keys_are_always_text() -> None:
    assert values("1: a\ntrue: b\n~: c\non: d") == {"1": "a", "true": "b", "~": "c", "on": "d"}


def test_every_value_knows_its_line_and_column_in_characters() -> None:
    root = read_yaml("é: 1\nlist:\n  - {ü: x, b: [1, two]}\n", "r.yaml").root
    assert root is not None
    entry = root.children["list"].items[0]
    two = entry.children["b"].items[1]
    assert (two.value, str(two.mark)) == ("two", "r.yaml:3:19")
    assert str(entry.children["b"].key) == "r.yaml:3:12"
    assert str(root.children["é"].mark) == "r.yaml:1:4"


def test_a_key_that_stands_twice_is_a_problem_that_names_both_lines() -> None:
    document = read_yaml("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n", "r.yaml")
    texts = [str(error) for _, error in document.problems]
    assert texts == [
        "r.yaml:4:3: expected one key 'c', got a second one (the first is in line 3); "
        "remove one of them",
        "r.yaml:5:1: expected one key 'a', got a second one (the first is in line 1); "
        "remove one of them",
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: &x 1", "the anchor &x"),
        ("a: &x [1]", "the anchor &x"),
        ("a: *x", "the alias *x"),
        ("a: !!int '5'", "the tag"),
        ("a: !!python/object/apply:os.system [echo]", "the tag"),
        ("a: !local {}", "the tag !local"),
        ("a: 1\n---\nb: 2", "got a second"),
        ("[a, b]: 1", "a list or a mapping as key"),
        ("? {a: 1}\n: 2", "a list or a mapping as key"),
        ("a: [1, 2", "expected YAML"),
        ("a: 'x", "expected YAML"),
        ("a: 1\n  b: 2", "expected YAML"),
        ("\ta: 1", "expected YAML"),
        ("a: " + "1" * 200, "at most 100 digits"),
        ("a: \x01", ""),
        ('a: "\\ud800"', ""),
        ("a: '\ud800'", "UTF-8"),
        (b"a: \xff", "UTF-8"),
        ("a: é".encode("latin-1"), "UTF-8"),
        ("a: 1".encode("utf-16"), "UTF-8"),
        (b"a: \x00", "binary"),
        (b"\x89PNG\r\n\x1a\n\x00", "UTF-8"),
    ],
)
def test_what_is_not_strict_yaml_is_one_clear_line(text: str | bytes, part: str) -> None:
    assert part in fails(text)


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert values(b"\xef\xbb\xbfa: 1") == {"a": 1}


def test_the_merge_key_is_a_plain_key() -> None:
    assert values("<<: {a: 1}\nb: 2") == {"<<": {"a": 1}, "b": 2}


def test_a_merge_key_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    assert "anchor" in fails("\n".join(lines))


@pytest.mark.parametrize("piece", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_without_recursion(piece: str) -> None:
    fails(piece * 200_000 if len(piece) < 3 else piece * 100_000)


def test_depth_is_allowed_up_to_the_bound() -> None:
    assert values("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert f"at most {MAX_DEPTH} levels" in fails("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_too_many_values_are_refused() -> None:
    assert "at most" in fails("[" + "a," * MAX_EVENTS + "]")


def test_long_scalars_and_files_are_refused() -> None:
    assert len(values(f"a: {'x' * MAX_SCALAR}")["a"]) == MAX_SCALAR
    assert f"at most {MAX_SCALAR} characters" in fails(f"a: {'x' * (MAX_SCALAR + 1)}")
    assert f"at most {MAX_BYTES} bytes" in fails(b"# " + b"x" * MAX_BYTES)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_a_surgery_error(data: bytes) -> None:
    with suppress(SurgeryError):
        read_yaml(data, "r")


@given(st.text(alphabet=st.sampled_from(list("ab:-[]{},&*!|>'\"%@`#?~<\n\t \\0é$")), max_size=60))
def test_no_text_of_yaml_signs_does_more_than_a_surgery_error(text: str) -> None:
    with suppress(SurgeryError):
        read_yaml(text, "r")


scalars = st.none() | st.booleans() | st.integers(-(10**60), 10**60) | st.floats(
    allow_nan=False, allow_infinity=False
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["2e-4", "on", "010", "~", "0x1", "${env:X}", "$${", "1:30",
     "a\nb", "a\x85b", "\u2028", "\r", "a\n\nb\n", " x ", "- a", "#", "'"]
)  # fmt: skip
data = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="ascii"), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=400)
@given(data)
def test_what_is_dumped_is_read_back_exactly(value: Any) -> None:
    root, problems = expand(read_yaml(dump_yaml({"v": value}), "r").root, {})  # type: ignore[arg-type]
    assert problems == []
    assert plain(root) == {"v": value}
    assert repr(plain(root)["v"]) == repr(value)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(RecipeError, match="expected a recipe file"):
            read_file(path, str(path))


def test_an_endless_file_is_read_up_to_the_bound() -> None:
    with pytest.raises(RecipeError, match="at most"):
        read_file(Path("/dev/zero"), "zero")
