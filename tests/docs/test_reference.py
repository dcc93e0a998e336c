"""The reference has every hook, offer, option and command, each with what it means."""

from __future__ import annotations

import inspect
from typing import Any

import click
import pytest
from pydantic import BaseModel

from docs.generate import commands, contracts, pages
from docs.generate.options import kind
from docs.generate.text import docstring, escaped, table
from surgery.cli.app import COMMANDS
from surgery.hooks import specs
from surgery.hooks.offers import KINDS
from surgery.hooks.registry import registry
from surgery.recipe.json_schema import recipe_schema


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return {path.removeprefix("reference/"): text for path, text in pages.pages().items()}


def sections(text: str) -> dict[str, str]:
    """Give what stands under each heading of the second level."""
    head, *rest = text.split("\n## ")
    assert head.startswith("# ")
    return {one.partition("\n")[0]: one for one in rest}


def fields(model: type[BaseModel]) -> list[tuple[str, str]]:
    """Give each option of a model and of the forms in it, with what it means."""
    schema = model.model_json_schema(by_alias=True)
    forms = [schema, *schema.get("$defs", {}).values()]
    return [(key, one.get("description", "")) for form in forms
            for key, one in form.get("properties", {}).items()]  # fmt: skip


def test_every_hook_has_its_contract(found: dict[str, str]) -> None:
    hooks = {name for name, _ in inspect.getmembers(specs, inspect.isfunction)
             if name.startswith("surgery_")}  # fmt: skip
    assert hooks == {one.hook for one in KINDS.values()} == sections(found["hooks.md"]).keys()
    for name, cls in contracts.hooks().items():
        text = sections(found["hooks.md"])[name]
        assert docstring(getattr(specs, name)) in text
        for method, value in contracts.methods(cls):
            said = value.fget.__doc__ if isinstance(value, property) else value.__doc__
            assert said, f"{cls.__name__}.{method}"
            assert f"### `{method}" in text


@pytest.mark.parametrize("what", KINDS)
def test_every_offer_has_every_option_with_its_meaning(what: str, found: dict[str, str]) -> None:
    known = registry()
    shown = sections(found[f"{pages.name_of(what)}.md"])
    assert list(shown) == list(known.names(what))
    for name in known.names(what):
        value = known.offer(what, name).value
        assert (value.__doc__ or "").strip(), f"{what} {name} says nothing of itself"
        if inspect.isclass(value) and issubclass(value, BaseModel):
            for key, said in fields(value):
                assert said, f"{what} {name}: option {key} has no description"
                assert f"| `{key}` |" in shown[name]


def test_every_key_of_a_recipe_is_there(found: dict[str, str]) -> None:
    schema = recipe_schema(registry()).schema
    train = schema["properties"]["train"]["properties"]
    text = found["recipe.md"]
    for key in (*schema["properties"], *train):
        assert f"| `{key}` |" in text or f"`{key}:" in text or f"`{key}`" in text, key
    for model in pages._FORMS.values():
        for key, _ in fields(model):
            assert f"| `{key}` |" in text, key


def test_every_command_has_every_option_with_its_meaning(found: dict[str, str]) -> None:
    shown = sections(found["commands.md"])
    every = dict(commands.every())
    assert shown.keys() == every.keys()
    assert {path.split()[1] for path in every if " " in path} == COMMANDS.keys()
    for path, command in every.items():
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.help, f"{path} {option.opts}"
                assert option.opts[0] in shown[path]


def test_every_role_is_there(found: dict[str, str]) -> None:
    assert all(f"| `{role}` |" in found["roles.md"] for role in registry().roles())


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1}, "whole number ≥ 1"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text or nothing"),
        ({"enum": ["a", "b"]}, '`"a"` or `"b"`'),
        ({"$ref": "#/$defs/AtForm"}, "`At`"),
        ({"type": "array", "items": {"enum": [1, 2]}}, "list of (`1` or `2`)"),
        ({"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}]},
         "list of number, text"),
        ({"type": "object", "additionalProperties": {"type": "boolean"}},
         "mapping to true or false"),
        ({}, "anything"),
    ],
)  # fmt: skip
def test_values_are_said_in_words(schema: dict[str, Any], words: str) -> None:
    assert kind(schema) == words


def test_text_is_not_read_as_markup() -> None:
    assert escaped("a **_B <b> `**_C` ``d``") == r"a \*\*\_B \<b> `**_C` `d`"
    assert table(("a", "b"), [("x|y", "1\n2")]).splitlines()[-1] == r"| x\|y | 1 2 |"
    assert table(("a",), []) == ""
