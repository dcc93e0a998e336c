"""What editors are told of ``train:`` is what the reader takes."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml

from surgery.cli import main
from surgery.hooks.registry import registry
from surgery.recipe.json_schema import recipe_schema
from surgery.recipe.shipped import shipped

GOOD: dict[str, Any] = {
    "objective": {"use": "causal-lm", "text": "t", "packing": True},
    "data": [{"use": "jsonl", "path": "./a"}, {"use": "csv", "path": "./b", "weight": 0.5}],
    "evaluation": {"use": "cldr-names", "part": "test"},
    "steps": 3,
}


@cache
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(recipe_schema(registry()).schema)


def valid(train: dict[str, Any]) -> bool:
    recipe = {"recipe": 1, "surgeries": [{"use": "freeze"}], "train": train}
    return bool(validator().is_valid({**recipe, "patient": {"source": "hf", "path": "./base"}}))


def test_good_settings_are_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(validator().schema)
    assert valid(GOOD)
    assert valid({"steps": 5})


@pytest.mark.parametrize(
    "change",
    [
        {"objective": {"use": "causal"}},
        {"objective": {"use": "causal-lm", "txt": "t"}},
        {"objective": {"use": "contrastive", "temperature": 0}},
        {"objective": {"use": "jsonl", "path": "./a"}},
        {"data": {"use": "cldr-names"}},
        {"data": [{"use": "parquet", "path": 3}]},
        {"data": {"use": "csv", "path": "./a", "weight": 0}},
        {"evaluation": {"use": "classification"}},
        {"step": 3},
    ],
)
def test_mistakes_are_marked(change: dict[str, Any]) -> None:
    assert not valid({**GOOD, **change})


def test_shipped_recipes_are_valid() -> None:
    trained = {name: yaml.safe_load(file.read_text("utf-8")) for name, file in shipped().items()}
    trained = {name: data for name, data in trained.items() if "train" in data}
    assert {"minilm-adapt", "minilm-pairs", "llm-lora"} <= trained.keys()
    wrong = {name: [e.message for e in validator().iter_errors(data)][:1]
             for name, data in trained.items() if not validator().is_valid(data)}  # fmt: skip
    assert wrong == {}


def test_the_command_line_lists_and_describes_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    found = json.loads(capsys.readouterr().out)
    listed = {one["title"] for one in found["$defs"]["Objective"]["oneOf"]}
    assert {"causal-lm", "classification", "contrastive"} <= listed
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert "objective: causal-lm, classification, contrastive" in out
    assert "data set: jsonl, csv, parquet, arrow, text-pairs, cldr-names" in out
