"""The shipped recipe trains, with the losses and the adapters that it has without the surgery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe
from surgery.recipe.shipped import copy_shipped
from surgery.training.run import train_recipe
from tests.objectives import kit
from tests.objectives.test_training import chats, lines, saved, written
from tests.training.test_run import equal


def test_the_shipped_recipe_trains_as_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(kit.causal(template=kit.CHATML), tmp_path / "llm")
    written(tmp_path / "chats.jsonl", chats(16))
    monkeypatch.chdir(tmp_path)
    path = copy_shipped("llm-lean", tmp_path)
    text = path.read_text()
    assert "  - use: lean\n" in text
    path.with_name("plain.yaml").write_text(text.replace("  - use: lean\n", ""))
    found, known = [], registry()
    for name in ("llm-lean", "plain"):
        changes: dict[str, Any] = {
            "train.steps": 6, "train.epochs": None, "train.log.every": 1, "output.path": f"./{name}"
        }  # fmt: skip
        sets = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
        recipe = read_recipe(str(tmp_path / f"{name}.yaml"), registry=known, sets=sets)
        trained = train_recipe(recipe, known)
        model = surgery.load(tmp_path / name).model
        adapters = {n: p for n, p in model.named_parameters() if "lora" in n}
        found.append((lines(trained, "loss"), adapters))
    (losses, ours), (wanted, plain) = found
    assert losses == wanted
    assert equal(ours, plain)
