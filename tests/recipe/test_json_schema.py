from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar

import jsonschema
import pytest
from pydantic import ConfigDict

import surgery_plugins
from surgery.anatomy.site import ROLES
from surgery.errors import SurgeryError
from surgery.hooks.discover import Plugin
from surgery.hooks.offers import Offer
from surgery.hooks.registry import Registry
from surgery.recipe.json_schema import recipe_schema
from surgery.recipe.nodes import plain
from surgery.recipe.read import read_recipe
from surgery.recipe.shipped import shipped
from surgery.recipe.yaml import read_yaml
from tests.recipe.fakes import GOOD, REGISTRY, Freeze, Nested, _Quiet, registry_with

STEP = "recipe: 1\nsurgeries:\n- "


_CHECKED: list[tuple[Registry, jsonschema.Draft202012Validator]] = []


def validator(known: Registry) -> jsonschema.Draft202012Validator:
    """Give the validator of a registry's schema, which is checked once: that takes long."""
    for registry, checked in _CHECKED:
        if registry is known:
            return checked
    schema = recipe_schema(known).schema
    jsonschema.Draft202012Validator.check_schema(schema)
    _CHECKED.append((known, jsonschema.Draft202012Validator(schema)))
    return _CHECKED[-1][1]


def valid(text: str, known: Registry = REGISTRY) -> bool:
    root = read_yaml(text, "r").root
    assert root is not None
    return bool(validator(known).is_valid(plain(root)))


def readable(text: str) -> bool:
    try:
        read_recipe(text, registry=REGISTRY)
    except SurgeryError:
        return False
    return True


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        STEP + "use: freeze\n",
        STEP + "{use: lora, with: {init: pissa, limit: x, nested: {depth: 2}}}\n",
        STEP + "{use: lora, at: {layers: [1, '2-3'], exclude: [a, {role: mlp}]}, expect: 1}\n",
        STEP + "{use: acme/resize, with: {size: 3}}\n",
        GOOD + "plugins: {acme: '>=1'}\n",
        GOOD.replace("hf, path: ./base", "disk, file: x"),
    ],
)
def test_what_the_reader_accepts_the_schema_accepts(text: str) -> None:
    assert readable(text)
    assert valid(text)


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("recipe: 1", "recipe: 2"),
        GOOD.replace("recipe: 1\n", ""),
        GOOD.replace("seed", "sed"),
        GOOD.replace("seed: 3", "seed: -1"),
        GOOD.replace("use: lora", "use: loar"),
        GOOD.replace("rank: 4", "rank: four"),
        GOOD.replace("rank: 4", "rnak: 4"),
        GOOD.replace("rank: 4", "rank: 0"),
        GOOD.replace("rank: 4", "init: pisa"),
        GOOD.replace("rank: 4", "nested: {dept: 1}"),
        GOOD.replace("rank: 4", "nested: {depth: 0}"),
        GOOD.replace("attention.q,", "atention.q,"),
        GOOD.replace('"4-11"', '"4-x"'),
        GOOD.replace("expect: 16", "expect: 0"),
        GOOD.replace('{path: "**"}', "{}"),
        GOOD.replace("source: hf", "source: hff"),
        GOOD.replace("path: ./base", "pth: ./base"),
        GOOD.replace("./out}", "./out, save: al}"),
        STEP + "use: acme/resize\n",
        STEP + "{}\n",
        "recipe: 1\nsurgeries: []\n",
        "recipe: 1\n\n",
    ],
)
def test_what_the_reader_refuses_the_schema_refuses(text: str) -> None:
    assert not readable(text)
    assert not valid(text)


def test_a_recipe_that_extends_another_need_not_repeat_it() -> None:
    assert valid("extends: base.yaml\nsurgeries+: [{use: freeze}]\n")
    assert not valid("extends: base.yaml\nsurgeries+: [{use: freze}]\n")


def test_editors_get_descriptions_of_surgeries_and_of_their_options() -> None:
    steps = recipe_schema(REGISTRY).schema["$defs"]["Step"]["oneOf"]
    lora = next(step for step in steps if step["properties"]["use"]["const"] == "lora")
    assert lora["properties"]["use"]["description"] == "Add a low-rank update."
    assert lora["properties"]["with"]["properties"]["rank"]["description"] == "Rank of the update."


def test_roles_of_families_are_among_the_choices() -> None:
    class Family:
        roles = ("acme.role",)

    known = replace(REGISTRY, offers=(*REGISTRY.offers, Offer("family", "f", Family(), ("a", "1"))))
    text = json.dumps(recipe_schema(known).schema["$defs"]["AtForm"])
    assert all(f'"{role}"' in text for role in (*ROLES, "acme.role"))


def test_equal_names_inside_two_plugins_do_not_mix() -> None:
    def local() -> Any:
        class Nested(_Quiet.__mro__[1].__mro__[1]):  # type: ignore[misc]
            other: str

        return Nested

    other = local()

    class Second(_Quiet):
        name: ClassVar[str] = "acme/second"
        nested: other | None = None  # type: ignore[valid-type]

    Second.model_rebuild(_types_namespace={"other": other})
    known = registry_with(Second)
    assert valid(STEP + "{use: acme/second, with: {nested: {other: x}}}\n", known)
    assert valid(STEP + "{use: lora, with: {nested: {depth: 1}}}\n", known)
    assert not valid(STEP + "{use: lora, with: {nested: {other: x}}}\n", known)
    assert Nested.__name__ == other.__name__


def test_options_that_have_no_schema_are_named_and_the_rest_is_complete() -> None:
    class Odd(_Quiet):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        name: ClassVar[str] = "acme/odd"
        thing: REGISTRY.__class__ | None = None  # type: ignore[name-defined]

    assembled = recipe_schema(registry_with(Odd))
    assert ["acme/odd" in str(one) for one in assembled.faults] == [True]
    assert not valid(STEP + "use: freze\n", registry_with(Odd))


def test_names_that_clash_are_left_out() -> None:
    twice = replace(
        REGISTRY, offers=(*REGISTRY.offers, Offer("surgery", "lora", Freeze, ("b", "1")))
    )
    assert not valid(STEP + "use: lora\n", twice)
    assert valid(STEP + "use: freeze\n", twice)


def test_without_any_plugin_there_is_still_a_schema() -> None:
    assert valid(GOOD, Registry())


def test_shipped_recipes_fit_the_schema_of_the_built_in_plugins_and_carry_its_header() -> None:
    known = Registry().with_plugins([Plugin("model-surgery", "0", "builtin", surgery_plugins)])
    assert known.faults == ()
    assert shipped()
    for recipe in shipped().values():
        text = recipe.read_text(encoding="utf-8")
        assert text.startswith("# yaml-language-server: $schema=")
        assert valid(text, known)
        assert not valid(text.replace("use: ", "use: un"), known)
