"""docs/training-text.md is run: its recipe, its commands; its tables are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import surgery
from surgery.cli import main
from surgery.hooks.registry import registry
from surgery.recipe.shipped import shipped
from tests.objectives import kit
from tests.objectives.test_training import chats, saved, written

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training-text.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.S | re.M)
(RECIPE,) = [text for language, text in BLOCKS if language == "yaml"]
SHELL = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    saved(kit.causal(template=kit.CHATML), tmp_path / "llm")
    written(tmp_path / "chats.jsonl", chats(16))
    written(tmp_path / "chats-held-out.jsonl", chats(3))
    pairs = [{"question": f"where is {n}?", "answer": "a cat"} for n in range(8)]
    written(tmp_path / "questions-1.jsonl", pairs)
    rows = [f"{one['question']},{one['answer']}\n" for one in pairs]
    (tmp_path / "more.csv").write_text("".join(["question,answer\n", *rows]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_recipe_trains_on_its_mixture(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE)
    assert main(["train", "recipe.yaml", "--quiet"]) == 0
    assert surgery.load(folder / "out").plan.trainable
    lines = map(json.loads, (folder / "out-run" / "metrics.jsonl").read_text().splitlines())
    assert max(line.get("step", 0) for line in lines) == (8 + 4) // 4


def test_the_commands_run(folder: Path) -> None:
    *commands, real = SHELL
    assert real == "surgery train minilm-adapt"
    for line in commands:
        assert main([*line.split()[1:], "--quiet"]) == 0, line
    assert (folder / "llm-lora").is_dir()


def test_the_tables_name_what_there_is() -> None:
    named = set(re.findall(r"^\| `([\w-]+)` \|", PAGE, re.M))
    known = registry()
    texts = {name for name in known.names("data") if not name.startswith("image")}
    assert named == {"causal-lm", "classification", "contrastive"} | texts
    assert named <= {*known.names("objective"), *known.names("data")}
    assert {"llm-lora", "minilm-adapt", "minilm-pairs"} <= shipped().keys()


def test_the_figures_are_those_that_were_measured() -> None:
    measured = json.loads((ROOT / "bench" / "results" / "adapt.json").read_text())["rows"]
    table = re.findall(r"^\| (\d) \| ([\d.]+) \| ([\d.]+) \|", PAGE, re.M)
    assert [(int(a), float(b), float(c)) for a, b, c in table] == [
        (row["seed"], row["frozen probe"], row["lora"]) for row in measured
    ]
