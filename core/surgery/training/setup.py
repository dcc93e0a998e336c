"""What a recipe's ``train:`` says, and where its run is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import RecipeError
from surgery.recipe.recipe import Recipe

if TYPE_CHECKING:
    from surgery.operate.data import Data
    from surgery.operate.engine import Engine
    from surgery.operate.objective import Objective
    from surgery.recipe.train_form import TrainForm


@dataclass(frozen=True)
class Setup:
    """What a recipe's ``train:`` says.

    Attributes:
        form: its settings.
        objective: what turns samples into a loss.
        data: samples to train on.
        evaluation: samples to judge by, or None.
        folder: of the run: records and checkpoints.
        seed: of order, dropout and augmentation.
        engine: what runs the steps, or None for the loop.
    """

    form: TrainForm
    objective: Objective
    data: tuple[Data, ...]
    evaluation: Data | None
    folder: Path
    seed: int
    engine: Engine | None = None


def setup_of(recipe: Recipe, target: Path) -> Setup:
    """Give what ``train:`` of a recipe says.

    Args:
        recipe: the recipe.
        target: the folder of the result.

    Raises:
        RecipeError: there is no ``train:``.
    """
    train = recipe.train
    if train is None:
        raise RecipeError(
            f"{recipe.name}: train", "how to train", "nothing",
            "add `train:`, or use `surgery apply`",
        )  # fmt: skip
    run = train.form.run
    folder = recipe.resolve(run) if run else target.with_name(f"{target.name}-run")
    seed = recipe.seed if train.form.seed is None else train.form.seed
    return Setup(
        train.form, train.objective, train.data, train.evaluation, folder, seed, train.engine
    )  # fmt: skip
