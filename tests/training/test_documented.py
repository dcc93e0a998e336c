"""What the page on training says is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from surgery.cli import main
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe
from surgery.recipe.train_form import Guard
from surgery.training.setup import setup_of

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.S | re.M)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    (text,) = [text for kind, text in BLOCKS if kind == "yaml"]
    file.write_text(text)
    return file


def test_the_recipe_is_one(recipe: Path) -> None:
    known = registry()
    setup = setup_of(read_recipe(str(recipe), registry=known), recipe.parent / "tuned")
    assert (setup.form.batch, setup.form.groups[0].scale) == (16, 16)


def test_the_commands_run(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(recipe.parent)
    (text,) = [text for kind, text in BLOCKS if kind == "bash"]
    for line in text.strip().splitlines():
        assert main(line.split()[1:]) == 0
        assert "surgery train recipe.yaml --resume" in capsys.readouterr().out


def test_every_guard_is_described() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.M) == list(get_args(Guard))
