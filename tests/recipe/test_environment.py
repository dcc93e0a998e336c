from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import Problems
from surgery.recipe.environment import escape, expand
from surgery.recipe.nodes import node_of, plain
from surgery.recipe.read import read_recipe
from surgery.recipe.yaml import read_yaml
from tests.recipe.fakes import REGISTRY

ENV = {"NAME": "value", "NUMBER": "8", "EMPTY": "", "TRICK": "${env:NAME}", "LIST": "[1, 2]"}


def expanded(text: str) -> tuple[Any, list[str]]:
    root = read_yaml(text, "r").root
    assert root is not None
    node, problems = expand(root, ENV)
    return plain(node), [str(error) for _, error in problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${env:NAME}", "value"),
        ("a ${env:NAME} b ${env:NAME}", "a value b value"),
        ("${env:NUMBER}", 8),
        ("'${env:NUMBER}'", "8"),
        ("x${env:NUMBER}", "x8"),
        ("${env:NONE:-default}", "default"),
        ("${env:NONE:-2e-4}", 2e-4),
        ("'${env:NONE:-}'", ""),
        ("'${env:EMPTY:-x}'", ""),
        ("${env:TRICK}", "${env:NAME}"),
        ("${env:LIST}", "[1, 2]"),
        ("$${env:NAME}", "${env:NAME}"),
        ("$NAME $(NAME) $ {x}", "$NAME $(NAME) $ {x}"),
    ],
)
def test_variables_stand_only_where_they_are_written(text: str, value: Any) -> None:
    assert expanded(f"k: [1]\nv: {text}") == ({"k": [1], "v": value}, [])


def test_keys_are_never_expanded() -> None:
    assert expanded('"${env:NAME}": 1') == ({"${env:NAME}": 1}, [])


@pytest.mark.parametrize(
    "mark", ["${NAME}", "${env:}", "${env:A B}", "${vars.x}", "${env:NAME", "${"]
)
def test_other_marks_are_mistakes_that_say_how_to_write_them(mark: str) -> None:
    _, (problem,) = expanded(f"a:\n  - b: '{mark}'")
    assert problem.startswith("r:2:8: a[0].b: expected ${env:NAME} or ${env:NAME:-default}")
    assert "write $${" in problem


def test_all_missing_variables_are_told_at_once() -> None:
    text = "recipe: 1\nseed: ${env:SEED}\nsurgeries: [{use: '${env:USE}'}]\n"
    with pytest.raises(Problems) as caught:
        read_recipe(text, registry=REGISTRY, environment={})
    lines = str(caught.value).splitlines()
    assert any("the environment variable SEED, got none of that name" in line for line in lines)
    assert any("write ${env:USE:-default}" in line for line in lines)


def test_a_number_from_the_environment_passes_the_strict_check() -> None:
    text = "recipe: 1\nseed: ${env:SEED}\nsurgeries: [{use: freeze}]\n"
    assert read_recipe(text, registry=REGISTRY, environment={"SEED": "7"}).seed == 7


@given(st.text())
def test_an_escaped_text_comes_back(text: str) -> None:
    node, problems = expand(node_of(escape(text)), {})
    assert (node.value, problems) == (text, [])
