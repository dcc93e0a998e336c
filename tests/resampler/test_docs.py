"""What the page on the surgery says is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe
from surgery_plugins.surgeries.resampler.kinds import KINDS

PAGE = (Path(__file__).parent.parent.parent / "docs" / "resampler.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.S | re.M)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def test_the_recipe_is_one() -> None:
    (text,) = blocks("yaml")
    (step,) = read_recipe(text, registry=registry()).steps
    assert step.surgery.name == "resampler"


@pytest.mark.parametrize("number", [0, 1])
def test_the_python_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(blocks("python")) == 2
    exec(compile(blocks("python")[number], "docs/resampler.md", "exec"), {})
    assert number == 0 or "hidden = 48 (recipe)" in capsys.readouterr().out


def test_the_table_lists_every_kind_with_all_its_sizes() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", PAGE, re.M)
    told = {name: set(re.findall(r"`(\w+)`", sizes)) for name, sizes in rows if sizes != "sizes"}
    assert told == {name: set(kind.sizes) for name, kind in KINDS.items()}
