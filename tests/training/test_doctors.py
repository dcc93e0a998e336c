"""Doctors look at a patient before its training: mistakes stop it, what misleads is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from surgery.errors import TrainingError
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe
from surgery.recipe.recipe import Recipe
from surgery.training.preflight import preflight
from surgery.training.run import train_recipe
from tests.objectives import kit

DOCTOR = "doctor tokenizer"


def recipe_of(folder: Path, *, wrong: bool = False, **train: Any) -> Recipe:
    """Save a patient, whose config names another end than its tokenizer where it is wrong."""
    patient = kit.causal()
    if wrong:
        patient.model.config.eos_token_id = patient.model.generation_config.eos_token_id = 7
    patient.model.save_pretrained(folder / "base")
    patient.tokenizer.save_pretrained(folder / "base")
    (folder / "x.jsonl").write_text('{"text": "a cat"}\n' * 8)
    lora = {"use": "lora", "at": {"role": ["attention.q"]}, "with": {"rank": 2}}
    recipe = {
        "recipe": 1, "patient": {"source": "hf", "path": "./base"},
        "surgeries": [{"use": "freeze"}, lora], "output": {"path": "./out"},
        "train": {
            "steps": 2, "batch": 2, "log": {"trackers": []},
            "objective": {"use": "causal-lm", "text": "text"},
            "data": {"use": "jsonl", "path": "./x.jsonl"}, **train,
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return read_recipe(str(folder / "recipe.yaml"), registry=registry())


def test_a_mistake_stops_a_training_with_its_cause_and_cure(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        train_recipe(recipe_of(tmp_path, wrong=True), registry())
    error = caught.value
    assert error.where == "train: guard doctors"
    assert "config.eos_token_id is 7, the tokenizer's eos_token" in error.found
    assert "`tokens`" in error.instead
    assert "guards: {doctors: warn}" in error.instead
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("level", "told"), [("warn", True), ("off", False)])
def test_a_recipe_may_let_doctors_warn_or_stay_away(tmp_path: Path, level: str, told: bool) -> None:
    said: list[str] = []
    recipe = recipe_of(tmp_path, wrong=True, guards={"doctors": level})
    assert train_recipe(recipe, registry(), remark=said.append).ended == "done"
    assert any("config.eos_token_id is 7" in one for one in said) == told
    assert all(one.startswith("doctors: ") for one in said)


def test_what_only_misleads_is_told_and_the_training_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    assert train_recipe(recipe_of(tmp_path), registry(), remark=said.append).ended == "done"
    assert [one for one in said if "padding is on the right" in one]


@pytest.mark.parametrize(
    ("wrong", "level", "status"),
    [(True, "error", "failed"), (True, "warn", "warned"), (True, "off", "skipped"),
     (False, "error", "warned")],
)  # fmt: skip
def test_the_preflight_lists_what_a_doctor_found(
    tmp_path: Path, wrong: bool, level: str, status: str
) -> None:
    recipe = recipe_of(tmp_path, wrong=wrong, guards={"doctors": level})
    first, *others = preflight(recipe, registry()).checks
    assert (first.name, first.status) == (DOCTOR, status)
    assert {check.status for check in others} == {"passed"}


def test_of_a_sound_patient_a_preflight_has_its_four_points_alone(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    config = tmp_path / "base/tokenizer_config.json"
    stated = json.loads(config.read_text()) | {"padding_side": "left"}
    config.write_text(json.dumps(stated))
    found = preflight(recipe, registry())
    assert [check.status for check in found.checks] == ["passed"] * 4
