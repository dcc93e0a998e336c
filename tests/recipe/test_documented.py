"""What the page on recipes says is so, and it says all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from surgery.recipe.schema import AtForm, CheckForm, InputForm, Output, RecipeForm, StepForm
from tests.docs import bases, kit
from tests.docs.kit import Reader

__all__ = ["folder"]
folder = kit.folder
NAME = "recipes.md"


@pytest.mark.parametrize("form", [RecipeForm, StepForm, AtForm, Output, CheckForm, InputForm])
def test_every_key_is_described(form: type[RecipeForm]) -> None:
    described = re.findall(r"`(\w+)", "\n".join(re.findall(r"^\|.*", kit.page(NAME), re.M)))
    described += re.findall(r"(\w+): \.\.\.", kit.page(NAME))
    names = [field.alias or name for name, field in form.model_fields.items()]
    assert not {*names} - {*described}


def test_the_page_runs(folder: Path) -> None:
    bases.base(folder)
    reader = Reader()
    reader.read(NAME)
    ended = {line: status for line, status in reader.statuses if status}
    assert ended == {
        "surgery plan recipe.yaml": 2,
        "surgery plan recipe.yaml --locked --set surgeries.1.with.rank=16": 1,
    }
