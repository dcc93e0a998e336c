from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import RecipeError, SurgeryError
from surgery.recipe.dump import dump_yaml
from surgery.recipe.nodes import node_of, plain
from surgery.recipe.override import override, parse
from surgery.recipe.read import read_recipe
from tests.recipe.fakes import GOOD, REGISTRY, Lora

TREE = {"a": {"b": [1, {"c": 2}]}, "d": None}


def changed(*sets: str) -> Any:
    return plain(override(node_of(TREE), sets))


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a.b.0=5", {"a": {"b": [5, {"c": 2}]}, "d": None}),
        ("a.b[1].c=x", {"a": {"b": [1, {"c": "x"}]}, "d": None}),
        ("a.b.1.c=2e-4", {"a": {"b": [1, {"c": 2e-4}]}, "d": None}),
        ("a.b=[on, true]", {"a": {"b": ["on", True]}, "d": None}),
        ("d.e.f={g: 1}", {**TREE, "d": {"e": {"f": {"g": 1}}}}),
        ("n=", {**TREE, "n": None}),
        ("n='1'", {**TREE, "n": "1"}),
        ("n=a=b", {**TREE, "n": "a=b"}),
        ("a={}", {"a": {}, "d": None}),
        ("a.7=1", {"a": {"b": [1, {"c": 2}], "7": 1}, "d": None}),
        ("a.07=1", {"a": {"b": [1, {"c": 2}], "07": 1}, "d": None}),
    ],
)
def test_a_value_lands_where_the_path_leads(text: str, result: Any) -> None:
    assert changed(text) == result


def test_the_tree_itself_is_not_changed_and_later_overrides_win() -> None:
    tree = node_of(TREE)
    assert plain(override(tree, ["a.b.0=1", "a.b.0=2"]))["a"]["b"][0] == 2
    assert plain(tree) == TREE


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a", "KEY.KEY=VALUE"),
        ("=1", "KEY.KEY=VALUE"),
        ("a..b=1", "KEY.KEY=VALUE"),
        (".a=1", "KEY.KEY=VALUE"),
        ("a.=1", "KEY.KEY=VALUE"),
        ("[0]=1", "KEY.KEY=VALUE"),
        ("a[x]=1", "KEY.KEY=VALUE"),
        ("a b=1", "KEY.KEY=VALUE"),
        ("a[0=1", "KEY.KEY=VALUE"),
        ("a.b.2=1", "a number below 2"),
        ("a.b.c=1", "a number below 2, got 'c'"),
        ("a.b.0.c=1", "keys or a list to hold 'c', got 1"),
        ("a=[1", "expected YAML"),
        ("a=*x", "alias"),
        ("a={b: 1, b: 2}", "one key 'b'"),
        (".".join("a" * 100) + "=1", "KEY.KEY=VALUE"),
    ],
)
def test_an_override_that_leads_nowhere_names_the_option(text: str, part: str) -> None:
    with pytest.raises(RecipeError) as caught:
        changed(text)
    assert str(caught.value).startswith(f"--set {text}")
    assert part in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_wrong_value_names_the_option_and_not_a_line() -> None:
    sets = ["surgeries[1].with.rank=eight", "surgeries.0.usee=x"]
    with pytest.raises(SurgeryError) as caught:
        read_recipe(GOOD, registry=REGISTRY, sets=sets)
    assert sorted(str(caught.value).splitlines(), reverse=True) == [
        "--set surgeries[1].with.rank=eight: surgeries[1].with.rank: "
        "expected an integer > 0, got 'eight'",
        "--set surgeries.0.usee=x: surgeries[0].usee: expected a known key, got 'usee'; "
        "did you mean 'use'?",
    ]


def test_an_override_reaches_the_surgery() -> None:
    recipe = read_recipe(GOOD, registry=REGISTRY, sets=["surgeries.1.with.rank=32"])
    assert recipe.steps[1].surgery == Lora(rank=32, alpha=2e-4)


keys = st.from_regex(r"[a-z_]{1,5}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc 0.:#${}", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(keys, min_size=1, max_size=5), values)
def test_any_value_set_under_new_keys_is_found_there(path: list[str], value: Any) -> None:
    text = dump_yaml({"v": value})
    document = plain(parse("x=" + text)[1])["v"]
    tree = plain(override(node_of({}), [f"{'.'.join(path)}={text}"]))
    for key in path:
        tree = tree[key]
    assert tree == {"v": document}


@given(st.text(max_size=40))
def test_any_text_is_an_override_or_a_surgery_error(text: str) -> None:
    with suppress(SurgeryError):
        changed(text)
