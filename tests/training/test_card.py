"""Law: the model card of a training's output says what was trained, on what, and how well."""

from __future__ import annotations

import re
from pathlib import Path

from surgery.hooks.registry import Registry
from surgery.training.run import train_recipe
from tests.training.conftest import recipe_of


def test_the_card_tells_data_settings_and_the_metric(
    base: Path, tmp_path: Path, known: Registry
) -> None:
    settings = {
        "steps": 3,
        "evaluation": {"use": "test/numbers", "count": 4},
        "evaluate": {"every": 1},
    }
    recipe = recipe_of(tmp_path, known, **settings)
    trained = train_recipe(recipe, known)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    said = dict(re.findall(r"^\| (?:`)?([\w ]+?)(?:`)? \| `?([^`|]+?)`? \|$", card, re.M))
    assert said["steps"] == "3"
    assert said["samples"] == str(trained.progress.samples)
    assert said["loss"] == f"{trained.progress.best:.6g}"
    assert said["best after step"] == str(trained.progress.best_step)
    assert recipe.train is not None
    assert (said["objective"], said["data"]) == (
        recipe.train.objective.name, recipe.train.data[0].name,
    )  # fmt: skip
