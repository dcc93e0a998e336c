"""A tiny language model, a local plugin with an objective and samples, and a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from surgery.hooks.registry import Registry, registry
from surgery.recipe.read import read_recipe
from surgery.recipe.recipe import Recipe
from tests.stream.models import save

PLUGIN = Path(__file__).with_name("counting.py")


@pytest.fixture(scope="session")
def known() -> Registry:
    return registry((PLUGIN,))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save("llama", tmp_path / "base", False)


def recipe_of(folder: Path, known: Registry, **train: Any) -> Recipe:
    path = folder / "recipe.yaml"
    data = {
        "recipe": 1,
        "seed": 3,
        "patient": {"source": "hf", "path": str(folder / "base")},
        "surgeries": train.pop("surgeries", SURGERIES),
        "output": _output(train.pop("output", "./out")),
        "train": {**TRAIN, **train},
    }
    path.write_text(json.dumps(data))
    return read_recipe(str(path), registry=known)


def _output(given: Any) -> Any:
    return {"path": given} if isinstance(given, str) else given


SURGERIES = [
    {"use": "freeze"},
    {"use": "lora", "at": {"role": ["attention.q", "attention.v"]}, "with": {"rank": 4}},
]
TRAIN: dict[str, Any] = {
    "objective": {"use": "test/counting"},
    "data": {"use": "test/numbers", "count": 64},
    "steps": 12,
    "batch": 4,
    "optimizer": {"lr": 0.01},
    "log": {"every": 1, "trackers": []},
}
