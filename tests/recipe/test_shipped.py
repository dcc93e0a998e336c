from __future__ import annotations

from pathlib import Path

import pytest

from surgery.errors import OutputError, RecipeError
from surgery.recipe import shipped as module
from surgery.recipe.shipped import copy_shipped, find_shipped, shipped, summary

TEXT = "# yaml-language-server: $schema=./recipe.schema.json\n# What it does.\nrecipe: 1\n"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    for name in ("quick", "again"):
        (folder / f"{name}.yaml").write_text(TEXT)
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(module, "files", lambda name: folder)
    return folder


def test_recipes_are_listed_by_name_with_a_summary() -> None:
    assert list(shipped()) == ["again", "quick"]
    assert summary(find_shipped("quick")) == "What it does."


def test_an_unknown_name_suggests_the_near_one() -> None:
    with pytest.raises(RecipeError, match="did you mean 'quick'"):
        find_shipped("quik")


def test_a_copy_goes_into_a_folder_or_under_a_name(tmp_path: Path) -> None:
    assert copy_shipped("quick", tmp_path) == tmp_path / "quick.yaml"
    assert copy_shipped("quick", tmp_path / "mine.yaml").read_text() == TEXT


def test_a_copy_never_replaces_a_file(tmp_path: Path) -> None:
    file = tmp_path / "quick.yaml"
    file.write_text("mine")
    for target in (tmp_path, file):
        with pytest.raises(OutputError, match="an existing file"):
            copy_shipped("quick", target)
    assert file.read_text() == "mine"


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        copy_shipped("quick", tmp_path / "no" / "x.yaml")


def test_without_the_package_nothing_is_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(module, "files", gone)
    assert shipped() == {}
