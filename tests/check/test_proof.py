"""Contracts are part of the proof: of a plan, before weights are read, after, and on a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import surgery
from surgery.errors import Problems
from tests.command import Ran
from tests.families.kit import setting
from tests.rope import kit as models

Run = Callable[..., Ran]
Recipe = Callable[..., Path]


def spoilt(file: Path, value: int = 8) -> Path:
    """Let the configuration of the recipe's SAM 2 say another size of patches."""
    config = file.parent / "sam2" / "config.json"
    data = json.loads(config.read_text())
    data["prompt_encoder_config"]["patch_size"] = value
    config.write_text(json.dumps(data))
    return file


def test_a_plan_lists_contracts_that_hold(recipe: Recipe, run: Run) -> None:
    done = run("plan", recipe("sam2"), "--json")
    assert (done.status, done.json["ok"]) == (0, True)
    assert done.checks == {"contracts of sam2": "passed"}
    assert run("plan", recipe("sam2")).out.endswith("  ok    contracts of sam2\n")


def test_a_plan_of_a_model_of_no_family_lists_them_as_skipped(recipe: Recipe, run: Run) -> None:
    done = run("plan", recipe("llama"), "--json")
    assert (done.status, done.checks) == (0, {"contracts": "skipped"})


def test_a_plan_whose_result_breaks_a_contract_says_so_and_fails(recipe: Recipe, run: Run) -> None:
    done = run("plan", spoilt(recipe("sam2")), "--json")
    assert (done.status, done.json["ok"]) == (1, False)
    assert done.checks == {"contracts of sam2": "failed"}
    assert "contracts of sam2: " in done.err
    assert done.json["steps"]  # the plan is shown all the same


@pytest.mark.parametrize("way", ["--live", "--stream"])
def test_apply_refuses_before_it_loads_the_model_or_begins_to_write(
    way: str, recipe: Recipe, run: Run
) -> None:
    file = spoilt(recipe("sam2", weights=True, output={"path": "./out"}))
    before = {path.name for path in file.parent.iterdir()}
    done = run("apply", file, way)
    stages = [line for line in done.err.splitlines() if line.endswith(" ...")]
    assert (done.status, stages) == (1, ["plan ..."])
    assert "contracts of sam2: expected a check that passes" in done.err
    assert {path.name for path in file.parent.iterdir()} == before


@pytest.mark.parametrize("way", ["--live", "--stream"])
def test_apply_and_verify_list_the_contract_as_passed(way: str, recipe: Recipe, run: Run) -> None:
    file = recipe("sam2", weights=True, output={"path": "./out"})
    assert run("apply", file, way, "--json").checks["contracts of sam2"] == "passed"
    done = run("verify", file.parent / "out", "--json")
    assert (done.status, done.checks["contracts of sam2"]) == (0, "passed")


def test_verify_names_a_contract_that_a_folder_breaks(recipe: Recipe, run: Run) -> None:
    file = spoilt(recipe("sam2", weights=True))
    done = run("verify", file.parent / "sam2", "--json")
    assert done.checks["contracts of sam2"] == "failed"
    assert done.status != 0


def test_apply_in_memory_takes_everything_back_where_a_contract_does_not_hold() -> None:
    model = models.sam2()
    setting("prompt_encoder.mask_input_size", (256, 256))(model)
    before = models.bits(model)
    with pytest.raises(Problems, match=r"prompt_encoder\.mask_input_size"):
        surgery.apply(model, {"use": "lora", "at": {"path": "**.qkv"}, "with": {"rank": 2}})
    assert models.same_bits(before, models.bits(model))
