"""Two processes under the Trainer of transformers, wrapped by the strategy of the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.hooks.registry import Registry
from surgery.training.run import train_recipe
from tests.training.conftest import recipe_of
from tests.training.test_processes import curve, run
from tests.training.test_run import losses


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(base: Path, tmp_path: Path, known: Registry) -> None:
    one = train_recipe(recipe_of(tmp_path, known, output="./one", micro=1), known)
    recipe_of(tmp_path, known, output="./two", micro=1, engine={"use": "hf-trainer"})
    ran = run(tmp_path / "recipe.yaml")
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert curve(tmp_path / "two-run") == pytest.approx(losses(one), rel=1e-5)
