"""Every guard finds a fault that real trainings have, names cause and cure, and can be told off."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from surgery.errors import SurgeryError, TrainingError
from surgery.hooks.registry import Registry, registry
from surgery.recipe.recipe import Recipe
from surgery.recipe.train_form import Guard
from surgery.training.run import train_recipe
from tests.stream.models import save
from tests.training.conftest import PLUGIN, SURGERIES, recipe_of
from tests.training.test_processes import command, environment
from tests.training.test_run import lines

FAULTS = Path(__file__).with_name("faults.py")
HEAD = {"use": "unfreeze", "at": {"path": "lm_head"}}
WHOLE = [*SURGERIES, HEAD]
HELD = [{"use": "freeze", "with": {"eval_mode": True}}, *SURGERIES[1:]]
SMALL = {"optimizer": {"lr": 1e-9}, "steps": 22}


def fault(name: str, **more: Any) -> dict[str, Any]:
    return {"objective": {"use": "test/faulty", "fault": name}, "surgeries": WHOLE, **more}


CASES: list[tuple[Guard, dict[str, Any], str, str]] = [
    ("trainable", fault("frees a tensor"), "not planned: model.norm.weight", "requires_grad"),
    ("trainable", fault("freezes a tensor"), "no gradients: lm_head.weight", "requires_grad"),
    ("optimizer", fault("replaces a tensor"), "1 trainable tensors missing, 1 others", "after the"),
    (
        "optimizer", fault("gives a tensor other memory"), "no longer moves: lm_head.weight",
        "other memory",
    ),
    ("frozen", fault("writes to a frozen tensor"), "changed: model.norm.weight", "writes to them"),
    (
        "held", fault("wakes a module", surgeries=HELD), "training mode: model.layers.0",
        "sets `training`",
    ),
    ("gradients", fault("leaves a tensor out"), "without a gradient: lm_head.weight", "forward"),
    ("gradients", fault("multiplies by zero"), "gradient is zero: lm_head.weight", "stops it"),
    ("teachers", fault("teaches the teacher"), "of a teacher with a gradient", "no_grad"),
    ("moved", {"surgeries": [SURGERIES[0], HEAD], **SMALL}, "not moved: lm_head.weight", "float32"),
    ("moved", {"ema": {"decay": 1 - 1e-12}, "steps": 22}, "averages", "decay"),
    ("loss", {"objective": {"use": "test/counting", "how": "zero"}}, "exactly 0", "labels"),
    ("loss", {"objective": {"use": "test/counting", "how": "nan"}}, "loss of nan", "lower the"),
    ("loss", {"objective": {"use": "test/counting", "how": "constant"}}, "same loss", "inputs"),
    ("loss", {"objective": {"use": "test/counting", "how": "bound"}}, "bound 2", "saturated"),
]  # fmt: skip
NAMES = [f"{guard}-{found}" for guard, _, found, _ in CASES]


@pytest.fixture(scope="session")
def known() -> Registry:
    return registry((PLUGIN, FAULTS))


@pytest.fixture
def patient(tmp_path: Path, guard: Guard) -> Path:
    """Give a base, in bfloat16 where it is to stand still."""
    return save("llama bf16" if guard == "moved" else "llama", tmp_path / "base", False)


@pytest.mark.parametrize(("guard", "train", "found", "cure"), CASES, ids=NAMES)
def test_a_fault_stops_the_training(
    patient: Path, tmp_path: Path, known: Registry, guard: Guard, train: Any, found: str, cure: str
) -> None:
    with pytest.raises(TrainingError) as caught:
        train_recipe(recipe_of(tmp_path, known, **train), known)
    error = caught.value
    assert error.where == f"train: guard {guard}"
    assert found in error.found
    assert cure in error.instead
    assert f"guards: {{{guard}: warn}}" in error.instead
    assert not (tmp_path / "out").exists()


def stopped_by(recipe: Recipe, known: Registry, remark: Callable[[str], object]) -> str:
    """Train, and give what stopped it; what was trained without a guard may be no output."""
    try:
        train_recipe(recipe, known, force=True, remark=remark)
    except SurgeryError as error:
        return error.where
    return ""


@pytest.mark.slow
@pytest.mark.parametrize(("guard", "train", "found", "cure"), CASES, ids=NAMES)
def test_a_guard_only_warns_where_it_is_told_to(
    patient: Path, tmp_path: Path, known: Registry, guard: Guard, train: Any, found: str, cure: str
) -> None:
    levels = dict.fromkeys(get_args(Guard), "off")
    for level in ("warn", "off"):
        said: list[str] = []
        recipe = recipe_of(tmp_path, known, **train, guards={**levels, guard: level})
        assert not stopped_by(recipe, known, said.append).startswith("train: guard")
        warned = [one for one in said if one.startswith(f"{guard}: ") and found in one]
        assert bool(warned) == (level == "warn"), said


def test_a_loss_without_gradient_ends_a_training_whatever_the_guards(
    tmp_path: Path, known: Registry
) -> None:
    save("llama", tmp_path / "base", False)
    detached = {"use": "test/counting", "how": "detached"}
    recipe = recipe_of(tmp_path, known, objective=detached, guards={"loss": "off"})
    with pytest.raises(TrainingError, match="detach it"):
        train_recipe(recipe, known)


def test_a_sound_training_meets_no_guard(tmp_path: Path, known: Registry) -> None:
    save("llama", tmp_path / "base", False)
    said: list[str] = []
    train = fault("", steps=24, ema={"decay": 0.99}, guards=dict.fromkeys(get_args(Guard), "warn"))
    trained = train_recipe(recipe_of(tmp_path, known, **train), known, remark=said.append)
    assert said == []
    changed = next(line["changed"] for line in lines(trained) if "changed" in line)
    assert all(share > 0.9 for share in changed.values())


@pytest.mark.slow
@pytest.mark.parametrize("level", ["error", "warn"])
def test_gradients_that_differ_between_processes_are_found(
    tmp_path: Path, known: Registry, level: str
) -> None:
    save("llama", tmp_path / "base", False)
    recipe_of(
        tmp_path, known, engine={"use": "test/deaf"}, micro=1, steps=3, guards={"ranks": level}
    )
    ran = subprocess.run(
        [*command(tmp_path / "recipe.yaml"), "--plugin", str(FAULTS)], env=environment(),
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert (ran.returncode == 0) == (level == "warn"), ran.stderr[-3000:]
    assert "gradients that differ between processes" in ran.stderr
    assert "outside the wrapped module" in ran.stderr
    assert (tmp_path / "out").exists() == (level == "warn")


def test_every_guard_has_a_case() -> None:
    assert {guard for guard, *_ in CASES} | {"ranks", "doctors"} == set(get_args(Guard))
