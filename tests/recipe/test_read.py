from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.anatomy.selector import Selector
from surgery.errors import PluginError, Problems, SurgeryError
from surgery.hooks.discover import Fault
from surgery.hooks.offers import Offer
from surgery.recipe.nodes import plain
from surgery.recipe.read import read_recipe
from surgery.recipe.recipe import Recipe
from surgery.recipe.yaml import read_yaml
from tests.recipe.fakes import GOOD, OWNER, REGISTRY, Disk, Hf, Lora, _Quiet, registry_with

GOLDEN = Path(__file__).parent / "golden"
BROKEN = (GOLDEN / "broken.yaml").read_text()
EXPECTED = (GOLDEN / "broken.txt").read_text()


def read(recipe: Any, **options: Any) -> Recipe:
    return read_recipe(recipe, registry=options.pop("registry", REGISTRY), **options)


def problems(recipe: Any, **options: Any) -> list[str]:
    with pytest.raises(SurgeryError) as caught:
        read(recipe, **options)
    assert caught.value.exit_status == 2
    return str(caught.value).splitlines()


def test_every_mistake_of_a_recipe_is_told_at_once_in_order_with_its_place() -> None:
    assert problems(BROKEN) == EXPECTED.splitlines()


def test_the_steps_hold_real_surgeries_with_selector_owner_and_place() -> None:
    recipe = read(GOOD)
    step = recipe.steps[1]
    assert step.surgery == Lora(rank=4, alpha=2e-4)
    assert step.at == Selector(
        role=("attention.q", "attention.v"), layers=("4-11",), tower=("text",)
    )
    assert (step.expect, step.overlap, step.plugin) == (16, False, OWNER)
    assert step.where == "recipe:7:5: surgeries[1]"
    assert recipe.seed == 3


def test_a_step_without_at_operates_everywhere() -> None:
    assert read("recipe: 1\nsurgeries: [{use: freeze}]\n").steps[0].at == Selector(path=("**",))


@pytest.mark.parametrize(
    ("written", "selector"),
    [
        ("{layers: 4}", Selector(layers=("4",))),
        ("{layers: [-1, 0-3, 0-11/2, -4--1]}", Selector(layers=("-1", "0-3", "0-11/2", "-4--1"))),
        ("{path: 'a.*', exclude: b}", Selector(path=("a.*",), exclude=(Selector(path=("b",)),))),
        (
            "{type: Linear, exclude: [b, {role: head, exclude: c}]}",
            Selector(
                type=("Linear",),
                exclude=(
                    Selector(path=("b",)),
                    Selector(role=("head",), exclude=(Selector(path=("c",)),)),
                ),
            ),
        ),
    ],
)
def test_selectors_are_read_as_written(written: str, selector: Selector) -> None:
    recipe = read(f"recipe: 1\nsurgeries: [{{use: freeze, at: {written}}}]\n")
    assert recipe.steps[0].at == selector
    assert read(recipe.to_yaml()).steps[0].at == selector


@pytest.mark.parametrize(
    "text", ["{}", "{path: []}", "{path: ''}", "{layers: []}", "[a]", "everything", "{layers: 1.5}"]
)
def test_a_selector_that_says_nothing_is_a_mistake(text: str) -> None:
    (line,) = problems(f"recipe: 1\nsurgeries:\n  - {{use: freeze, at: {text}}}\n")
    assert line.startswith("recipe:3:23: surgeries[0].at") or "recipe:3:3" in line


def test_lists_of_a_recipe_become_the_tuples_that_a_surgery_wants() -> None:
    recipe = read("recipe: 1\nsurgeries: [{use: lora, with: {shape: [3, 4]}}]\n")
    assert recipe.steps[0].surgery == Lora(shape=(3, 4))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n", "recipe: expected a recipe, got an empty file; begin with `recipe: 1`"),
        ("# only\n", "recipe: expected a recipe, got an empty file; begin with `recipe: 1`"),
        ("null\n", "recipe: expected a recipe, got an empty file; begin with `recipe: 1`"),
        ("- a\n- b\n", "recipe:1:1: expected keys and values, got a list; begin with `recipe: 1`"),
        ("hello\n", "recipe:1:1: expected keys and values, got 'hello'; begin with `recipe: 1`"),
    ],
)
def test_a_recipe_that_is_none_is_one_clear_line(text: str, line: str) -> None:
    assert problems(text) == [line]


@pytest.mark.parametrize("cut", range(12, len(GOOD) - 1, 7))
def test_a_recipe_cut_anywhere_reads_or_fails_in_a_sentence(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(GOOD[:cut])
    try:
        recipe = read(file)
    except SurgeryError as error:
        lines = str(error).splitlines()
    else:
        lines = [f"{file}: {len(recipe.steps)} steps"]
    assert lines
    assert all(line.startswith(str(file)) for line in lines)


def test_missing_surgeries_are_a_mistake_and_so_is_an_empty_list() -> None:
    assert problems("recipe: 1\n\n") == [
        "recipe:1:1: expected the key 'surgeries' with a list that is not empty, got no such key"
    ]
    assert "a list that is not empty" in problems("recipe: 1\nsurgeries: []\n")[0]


def test_keys_that_stand_twice_are_told_with_the_other_mistakes() -> None:
    lines = problems("recipe: 1\nseed: x\nseed: y\nsurgeries: [{use: freeze}]\n")
    assert [line.split(": expected")[0] for line in lines] == ["recipe:3:1", "recipe:3:7: seed"]


@pytest.mark.parametrize("name", ["r.yaml", "no/such", "x" * 5000, "a\0b", "a\0b/c", "quickstrat"])
def test_a_recipe_that_is_not_there_is_one_clear_line(name: str) -> None:
    (line,) = problems(name)
    assert "recipe" in line


def test_a_plugin_that_fails_while_it_checks_is_a_mistake_there() -> None:
    (line,) = problems("recipe: 1\nsurgeries: [{use: lora, with: {even: 102}}]\n")
    assert "surgeries[0].with: expected values that Lora can check, got KeyError" in line


def test_a_name_that_two_plugins_offer_is_told_at_the_step_that_uses_it() -> None:
    class Other(_Quiet):
        name: ClassVar[str] = "lora"

    both = replace(REGISTRY, offers=(*REGISTRY.offers, Offer("surgery", "lora", Other, ("b", "2"))))
    (line,) = problems("recipe: 1\nsurgeries:\n- use: lora\n", registry=both)
    assert line.startswith("recipe:3:8: surgeries[0].use: expected one plugin that offers")
    assert "acme 1.5 and b 2" in line
    assert read("recipe: 1\nsurgeries:\n- use: freeze\n", registry=both).steps


def test_an_unknown_surgery_mentions_plugins_that_are_broken() -> None:
    fault = Fault("acme-bad", "0.3", PluginError("a", "b", "c"))
    (line,) = problems(
        "recipe: 1\nsurgeries: [{use: x}]\n", registry=replace(REGISTRY, faults=(fault,))
    )
    assert "broken: acme-bad 0.3" in line


def test_an_unknown_source_is_told_and_a_missing_one_too() -> None:
    tail = "surgeries: [{use: freeze}]\n"
    assert "did you mean 'hf'" in problems(f"recipe: 1\npatient: {{source: hff}}\n{tail}")[0]
    assert "choose from disk, hf" in problems(f"recipe: 1\npatient: {{path: x}}\n{tail}")[0]
    assert "choose from disk, hf" in problems(f"recipe: 1\npatient: {{source: 3}}\n{tail}")[0]


def test_paths_refer_to_the_folder_of_the_recipe_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = (tmp_path / "recipes").resolve()
    folder.mkdir()
    (folder / "r.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    recipe = read("recipes/r.yaml")
    assert recipe.patient == Hf(path=str(folder / "base"))
    assert recipe.output is not None
    assert recipe.resolve(recipe.output.path) == folder / "out"
    assert recipe.resolve("/abs") == Path("/abs")


def test_names_that_are_no_paths_are_left_alone_and_paths_never() -> None:
    head, tail = "recipe: 1\npatient: ", "\nsurgeries: [{use: freeze}]\n"
    assert read(f"{head}{{source: hf, path: org/model}}{tail}").patient == Hf(path="org/model")
    disk = read(f"{head}{{source: disk, file: x, label: y}}{tail}").patient
    assert disk == Disk(file=Path.cwd() / "x", label="y")


def test_pinned_plugins_must_be_there_in_that_version() -> None:
    tail = "\nsurgeries: [{use: freeze}]\n"
    assert read(f"recipe: 1\nplugins: {{Acme: '>=1,<2'}}{tail}").plugins == {"Acme": ">=1,<2"}
    lines = problems(f"recipe: 1\nplugins: {{acme: '<1', bolt: '>=3', x: hm, y: 3}}{tail}")
    assert "expected acme <1, got acme 1.5; run: pip install 'acme<1'" in lines[0]
    assert "expected the plugin bolt >=3, got none; run: pip install 'bolt>=3'" in lines[1]
    assert "plugins.x: expected versions such as '>=1,<2', got 'hm'" in lines[2]
    assert "plugins.y: expected text, got 3" in lines[3]


def test_plain_data_is_read_like_a_file() -> None:
    recipe = read({"recipe": 1, "surgeries": [{"use": "lora", "with": {"shape": (1, 2)}}]})
    assert recipe.steps[0].surgery == Lora(shape=(1, 2))
    assert problems({"recipe": 1, "surgeries": [{"use": "lora", "with": {"rank": True}}]}) == [
        "surgeries[0].with.rank: expected an integer > 0, got true"
    ]


def test_data_that_holds_itself_is_a_mistake() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert "at most 64 levels" in problems({"recipe": endless})[0]


def test_the_resolved_recipe_reads_back_to_the_same_and_has_all_defaults() -> None:
    recipe = read(GOOD)
    text = recipe.to_yaml()
    assert read(text).to_yaml() == text
    assert read(text).steps[1].surgery == recipe.steps[1].surgery
    assert list(recipe.resolved) == ["recipe", "seed", "patient", "surgeries"]
    assert recipe.resolved["surgeries"][1]["with"]["init"] == "default"


def test_the_resolved_recipe_does_not_say_where_it_was_written() -> None:
    texts = {read(GOOD, sets=[f"output.path={out}"]).to_yaml() for out in ("a", "b")}
    assert len(texts) == 1


def test_problems_are_json_values_with_one_entry_each() -> None:
    with pytest.raises(Problems) as caught:
        read(BROKEN)
    entries = caught.value.to_json()["problems"]
    assert isinstance(entries, list)
    assert len(entries) == len(EXPECTED.splitlines())
    assert entries[3]["instead"] == "did you mean 'lora'?"


def test_names_may_not_be_hidden_by_a_plugin_of_another_registry() -> None:
    class Mine(_Quiet):
        name: ClassVar[str] = "mine"

    text = "recipe: 1\nsurgeries: [{use: mine}]\n"
    assert isinstance(read(text, registry=registry_with(Mine)).steps[0].surgery, Mine)
    with pytest.raises(Problems):
        read(text)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Give the location of every value in plain data."""
    if not isinstance(value, dict | list):
        return [at]
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return [at, *(place for key, child in pairs for place in places(child, (*at, key)))]


def spoiled(value: Any, place: tuple[Any, ...], other: Any) -> Any:
    """Give plain data with one value replaced."""
    if not place:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = spoiled(copy[place[0]], place[1:], other)
    return copy


DATA = plain(read_yaml(GOOD, "r").root)  # type: ignore[arg-type]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
rubbish = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["use", "at", "with", "role", "exclude", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.sampled_from(places(DATA)[1:]), rubbish)
def test_a_recipe_with_anything_anywhere_is_read_or_refused_line_by_line(
    place: tuple[Any, ...], other: Any
) -> None:
    try:
        read(spoiled(DATA, place, other))
    except SurgeryError as error:
        lines = str(error).splitlines()
    else:
        lines = []
    assert all(": expected " in line for line in lines)
