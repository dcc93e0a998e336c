"""``surgery check``: what passes, what fails, what is skipped, and what is a mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.command import Ran

Run = Callable[..., Ran]
Recipe = Callable[..., Path]
OWN = {"sam2": 256, "sam3": 126, "llava": 32, "internvl": 32, "idefics2": 32, "idefics3": 32}


@pytest.mark.parametrize("name", OWN)
def test_a_sound_recipe_passes_whole_and_without_weights(
    name: str, recipe: Recipe, run: Run
) -> None:
    done = run("check", recipe(name), "--image-size", OWN[name], "--json", "--strict")
    assert (done.status, done.err) == (0, "")
    assert set(done.checks.values()) == {"passed"}
    assert done.json["ok"] is done.json["complete"] is True
    assert done.json["violations"] == []
    assert f"{OWN[name]} x {OWN[name]} float32" in done.json["inputs"]["pixel_values"]
    assert done.json["outputs"]


@pytest.mark.parametrize("name", OWN)
def test_an_image_of_another_size_fails_and_the_message_says_all(
    name: str, recipe: Recipe, run: Run
) -> None:
    done = run("check", recipe(name), "--image-size", 140, "--json")
    assert done.status == 1
    assert done.json["ok"] is False
    (one,) = done.json["violations"]
    assert one["where"] == "inputs.pixel_values"
    assert "140 x 140 pixels" in one["found"]
    assert all(one[key] for key in ("family", "contract", "wanted", "instead"))
    text = run("check", recipe(name), "--image-size", 140)
    lines = [line.strip() for line in text.out.splitlines()]
    assert f"expected  {one['wanted']}" in lines
    assert f"instead   {one['instead']}" in lines
    assert text.err.startswith(
        f"surgery: image size: inputs.pixel_values: expected {one['wanted']}"
    )


def test_what_a_forward_breaks_on_is_named_with_the_module_and_its_input(
    recipe: Recipe, run: Run
) -> None:
    done = run("check", recipe("sam2"), "--image-size", 140, "--json")
    (forward,) = [c for c in done.json["checks"] if c["name"] == "forward on meta"]
    assert "pixel_values 1 x 3 x 140 x 140" in forward["detail"]  # and not the guess of a list
    assert "breaks off in vision_encoder.backbone, called with" in forward["detail"]


def test_inputs_of_the_recipe_are_those_of_the_forward_and_the_command_goes_first(
    recipe: Recipe, run: Run
) -> None:
    file = recipe("sam3", check={"inputs": {"pixel_values": [2, 3, 140, 140]}})
    done = run("check", file, "--json")
    assert done.status == 1
    assert done.json["inputs"]["pixel_values"] == "2 x 3 x 140 x 140 float32"
    done = run("check", file, "--json", "--input", "pixel_values=2x3x126x126:float64")
    assert done.status == 0
    assert done.json["inputs"]["pixel_values"] == "2 x 3 x 126 x 126 float64"
    assert done.json["inputs"]["input_ids"] == "2 x 6 int64"  # guessed, for as many samples


def test_a_surgery_that_changes_the_model_changes_what_it_is_checked_for(
    recipe: Recipe, run: Run
) -> None:
    file = recipe("sam3", {"use": "rope", "with": {"image_size": 140}})
    assert run("check", file, "--image-size", 140, "--strict").status == 0
    assert run("check", file, "--image-size", 126).status == 1


def test_a_model_of_no_family_passes_by_its_forward_and_not_strictly(
    recipe: Recipe, run: Run
) -> None:
    file = recipe("llama")
    done = run("check", file, "--json")
    assert (done.status, done.json["ok"], done.json["complete"]) == (0, True, False)
    assert done.checks == {"contracts": "skipped", "forward on meta": "passed"}
    assert done.json["counts"] == {"passed": 1, "warned": 0, "failed": 0, "skipped": 1}
    strict = run("check", file, "--strict")
    assert strict.status == 1
    assert strict.err == "surgery: not checked: contracts: no installed family knows this model\n"
    assert strict.out.splitlines()[-1] == "1 passed, 1 skipped"


def test_a_model_for_video_is_checked_by_its_contracts_and_its_forward_is_skipped(
    recipe: Recipe, run: Run
) -> None:
    file = recipe("video")
    done = run("check", file, "--json", "--image-size", 126)
    assert (done.status, done.json["complete"]) == (0, False)
    assert done.checks == {"contracts of sam3": "passed", "forward on meta": "skipped"}
    assert run("check", file, "--image-size", 140).status == 1
    assert run("check", file, "--strict").status == 1


PLUGIN = """
from surgery.hooks.specs import hookimpl
from surgery.operate.family import Family


class Broken(Family):
    name = "broken"

    def matches(self, model):
        return True

    def contracts(self, patient):
        raise KeyError("width")


@hookimpl
def surgery_families():
    return (Broken(),)
"""


def test_a_family_that_breaks_is_named_and_counts_as_skipped(
    recipe: Recipe, run: Run, tmp_path: Path
) -> None:
    plugin = tmp_path / "broken_family.py"
    plugin.write_text(PLUGIN)
    file = recipe("llama")
    done = run("check", file, "--json", "--plugin", plugin)
    assert done.checks["contracts of broken"] == "skipped"
    (one,) = [c for c in done.json["checks"] if c["name"] == "contracts of broken"]
    assert "KeyError: 'width'" in one["detail"]
    assert done.json["complete"] is False
    assert run("check", file, "--strict", "--plugin", plugin).status == 1


MISTAKES: list[tuple[list[str], str]] = [
    (["--image-size", "1024px"], "got '1024px'"),
    (["--image-size", "0"], "expected pixels such as 1024 or 768x1024 (height first), got '0'"),
    (["--image-size", "126x"], "got '126x'"),
    (["--image-size", "-126"], "got '-126'"),
    (["--image-size", "99999999999"], "expected sizes that a tensor can have"),
    (["--input", "pixel_value=1x3x126x126"], "did you mean 'pixel_values'?"),
    (["--input", "pixel_values"], "expected NAME=SHAPE or NAME=SHAPE:DTYPE"),
    (["--input", "pixel_values=1x3xax126"], "expected NAME=SHAPE or NAME=SHAPE:DTYPE"),
    (["--input", "pixel_values=1x3x126x126:flaot32"], "expected a dtype such as float32"),
    (["--input", "pixel_values=9999999999x9999999999"], "expected sizes that a tensor can have"),
    (["--input", "input_ids=1x6", "--input", "input_ids=1x7"], "expected one shape, got 2"),
    (["--imagesize", "126"], "--image-size"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=lambda o: " ".join(o)[:40])
def test_a_mistake_on_the_command_line_is_no_verdict(
    options: list[str], message: str, recipe: Recipe, run: Run
) -> None:
    done = run("check", recipe("sam3"), *options)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert "Traceback" not in done.err


RECIPES: list[tuple[Any, str]] = [
    ({"input": {"pixel_values": [1, 3, 126, 126]}}, "did you mean 'inputs'?"),
    ({"inputs": {"pixel_values": "1x3x126x126"}}, "expected a list or keys and values"),
    ({"inputs": {"pixel_values": [1, 3, -1, 126]}}, "pixel_values[2]: expected an integer >= 0"),
    ({"inputs": {"pixel_values": [1, 3, 126.5, 126]}}, "pixel_values[2]: expected an integer"),
    ({"inputs": {"pixel_values": {"shapes": [1]}}}, "did you mean 'shape'?"),
    ({"inputs": {"pixle_values": [1, 3, 126, 126]}}, "did you mean 'pixel_values'?"),
    ({"inputs": {"pixel_values": {"shape": [1], "dtype": "f32"}}}, "expected a dtype"),
    ([1], "check: expected keys and values, got a list"),
]


@pytest.mark.parametrize(("form", "message"), RECIPES, ids=lambda f: str(f)[:30])
def test_a_mistake_in_the_recipe_is_no_verdict(
    form: Any, message: str, recipe: Recipe, run: Run
) -> None:
    done = run("check", recipe("sam3", check=form))
    assert (done.status, done.out) == (2, "")
    assert message in done.err


def test_with_json_a_mistake_is_json_too(recipe: Recipe, run: Run) -> None:
    done = run("check", recipe("sam3"), "--input", "pixel=1", "--json")
    assert done.status == 2
    assert json.loads(done.out)["ok"] is False


def test_a_model_that_takes_no_image_has_no_size_of_one(recipe: Recipe, run: Run) -> None:
    done = run("check", recipe("llama"), "--image-size", 126)
    assert done.status == 2
    assert "--image-size: expected a model that takes images" in done.err
