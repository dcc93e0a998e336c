from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from surgery.errors import SurgeryError
from surgery.recipe import include, shipped
from surgery.recipe.include import MAX_EXTENDS, merge
from surgery.recipe.nodes import node_of, plain
from surgery.recipe.read import read_recipe
from surgery.recipe.recipe import Recipe
from tests.recipe.fakes import GOOD, REGISTRY, Hf, Lora


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "base.yaml").write_text(GOOD)
    return (tmp_path / "recipes").resolve()


def read(folder: Path, text: str, name: str = "r.yaml") -> Recipe:
    (folder / name).write_text(text)
    return read_recipe(folder / name, registry=REGISTRY)


def fails(folder: Path, text: str) -> str:
    with pytest.raises(SurgeryError) as caught:
        read(folder, text)
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_mappings_merge_and_lists_are_replaced(folder: Path) -> None:
    recipe = read(folder, "extends: base.yaml\nseed: 9\nsurgeries: [{use: lora}]\n")
    assert recipe.seed == 9
    assert recipe.patient == Hf(path=str(folder / "base"))
    assert [step.surgery for step in recipe.steps] == [Lora()]


def test_a_plus_appends_to_the_list_of_the_base(folder: Path) -> None:
    recipe = read(folder, "extends: ./base.yaml\nsurgeries+: [{use: lora, with: {rank: 2}}]\n")
    assert [step.surgery.name for step in recipe.steps] == ["freeze", "lora", "lora"]
    assert recipe.steps[2].surgery == Lora(rank=2)


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        ({"a": [1]}, {"a+": [2]}, {"a": [1, 2]}),
        ({}, {"a+": [2]}, {"a": [2]}),
        ({"t": {"a": [1]}}, {"t": {"a+": [2]}}, {"t": {"a": [1, 2]}}),
    ],
)
def test_trees_merge_by_these_rules(base: Any, over: Any, result: Any) -> None:
    problems: list[Any] = []
    assert plain(merge(node_of(base), node_of(over), problems)) == result
    assert problems == []


def test_appending_what_is_no_list_is_a_mistake_with_its_place(folder: Path) -> None:
    text = fails(folder, "extends: base.yaml\nsurgeries+: 3\n")
    assert f"{folder}/r.yaml:2:13: surgeries+: expected a list" in text


def test_a_mistake_in_the_base_names_the_base(folder: Path) -> None:
    (folder / "base.yaml").write_text(GOOD.replace("rank: 4", "rank: four"))
    assert "base.yaml:9:18: surgeries[1].with.rank" in fails(folder, "extends: base.yaml\n")


def test_folders_below_the_recipe_are_allowed_and_their_bases_may_come_back_up(
    folder: Path,
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "mid.yaml").write_text("extends: ../base.yaml\nseed: 5\n")
    assert read(folder, "extends: sub/mid.yaml\n").seed == 5


@pytest.mark.parametrize("name", ["../outside.yaml", "sub/../../outside.yaml", "/etc/hosts"])
def test_no_base_outside_the_recipes_folder_is_read(folder: Path, name: str) -> None:
    (folder.parent / "outside.yaml").write_text(GOOD)
    text = fails(folder, f"extends: {name}\n")
    assert "r.yaml:1:10: extends: expected a path below the recipe's folder" in text


def test_a_link_that_leads_outside_is_not_followed(folder: Path) -> None:
    (folder.parent / "outside.yaml").write_text(GOOD)
    (folder / "link.yaml").symlink_to(folder.parent / "outside.yaml")
    assert "leads out of" in fails(folder, "extends: link.yaml\n")


def test_a_circle_is_refused(folder: Path) -> None:
    (folder / "a.yaml").write_text("extends: r.yaml\n")
    assert "does not extend this one" in fails(folder, "extends: a.yaml\n")
    assert "does not extend this one" in fails(folder, "extends: r.yaml\n")


def test_a_long_row_of_bases_is_refused_and_a_shorter_one_read(folder: Path) -> None:
    (folder / "0.yaml").write_text(GOOD)
    for number in range(1, MAX_EXTENDS + 1):
        (folder / f"{number}.yaml").write_text(f"extends: {number - 1}.yaml\n")
    assert read(folder, f"extends: {MAX_EXTENDS - 1}.yaml\n").seed == 3
    assert f"at most {MAX_EXTENDS}" in fails(folder, f"extends: {MAX_EXTENDS}.yaml\n")


@pytest.mark.parametrize("value", ["3", "[base.yaml]", "''", "none.yaml", "quickstrat"])
def test_a_base_that_is_none_is_a_mistake_with_its_place(folder: Path, value: str) -> None:
    assert "r.yaml:1:10: extends" in fails(folder, f"extends: {value}\n")


def test_a_shipped_recipe_can_be_extended_and_read_by_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "files", lambda package: folder)
    monkeypatch.setattr(include, "shipped", shipped.shipped)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    recipe = read_recipe("base", registry=REGISTRY)
    assert recipe.name == "base.yaml"
    assert recipe.patient == Hf(path=str(tmp_path / "here" / "base"))
    mine = tmp_path / "here" / "mine.yaml"
    mine.write_text("extends: base\nseed: 8\n")
    assert read_recipe("mine.yaml", registry=REGISTRY).seed == 8
    with pytest.raises(SurgeryError) as caught:
        read_recipe("bese", registry=REGISTRY)
    assert "did you mean 'base'?; recipes here: mine.yaml" in str(caught.value)


def test_a_folder_that_a_shipped_recipe_wrote_does_not_hide_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quickstart").mkdir()
    monkeypatch.chdir(tmp_path)
    assert include.open_recipe("quickstart").source == "quickstart.yaml"
