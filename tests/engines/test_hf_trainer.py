"""The Trainer of transformers as an engine: the same losses, guards, checkpoints and result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.errors import MissingExtraError, Problems, SurgeryError, TrainingError
from surgery.hooks.registry import Registry
from surgery.training.loop import Loop
from surgery.training.run import train_recipe
from tests.training.conftest import SURGERIES, recipe_of
from tests.training.test_run import equal, lines, losses, tensors

HF = {"use": "hf-trainer"}
DROPOUT = [SURGERIES[0], {**SURGERIES[1], "with": {"rank": 4, "dropout": 0.3}}]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"micro": 1, "clip": 0.01},
        {"surgeries": DROPOUT, "ema": {"decay": 0.9}, "schedule": {"name": "linear", "warmup": 3}},
        {"precision": "bfloat16", "groups": [{"tensors": "**_B", "scale": 8.0}]},
    ],
    ids=["plain", "split", "dropout", "bfloat16"],
)  # fmt: skip
def test_it_trains_as_the_loop_does(
    base: Path, tmp_path: Path, known: Registry, settings: dict[str, Any]
) -> None:
    ours = train_recipe(recipe_of(tmp_path, known, output="./a", **settings), known)
    theirs = train_recipe(recipe_of(tmp_path, known, output="./b", engine=HF, **settings), known)
    assert (theirs.ended, theirs.progress.step) == ("done", 12)
    assert losses(theirs) == losses(ours)
    assert equal(tensors(tmp_path / "a"), tensors(tmp_path / "b"))
    assert lines(theirs)[3].keys() == lines(ours)[3].keys()
    assert surgery.load(tmp_path / "b").plan.trainable


def test_it_goes_on_bit_by_bit(base: Path, tmp_path: Path, known: Registry) -> None:
    settings: dict[str, Any] = {"surgeries": DROPOUT, "engine": HF, "workers": 1}
    whole = train_recipe(recipe_of(tmp_path, known, output="./a", **settings), known)
    recipe = recipe_of(tmp_path, known, output="./b", **settings)
    before = Loop._after

    def stop_after_5(self: Loop, number: int) -> str:
        self._stopping = number == 4
        return before(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_after", stop_after_5)
        stopped = train_recipe(recipe, known)
    assert (stopped.ended, stopped.progress.step, stopped.folder) == ("stopped", 5, None)
    again = train_recipe(recipe, known, resume=True)
    assert losses(again) == losses(whole)
    assert equal(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


@pytest.mark.parametrize(("how", "found"), [("nan", "nan"), ("constant", "the same loss")])
def test_guards_stop_it(base: Path, tmp_path: Path, known: Registry, how: str, found: str) -> None:
    objective = {"use": "test/counting", "how": how}
    with pytest.raises(TrainingError, match=found):
        train_recipe(recipe_of(tmp_path, known, objective=objective, engine=HF), known)
    assert not (tmp_path / "out").exists()


def test_patience_ends_it(base: Path, tmp_path: Path, known: Registry) -> None:
    settings: dict[str, Any] = {
        "evaluation": {"use": "test/numbers", "count": 10}, "steps": 60, "engine": HF,
        "evaluate": {"every": 2, "metric": "accuracy", "patience": 1},
    }  # fmt: skip
    trained = train_recipe(recipe_of(tmp_path, known, **settings), known)
    assert trained.ended == "patience"
    assert trained.progress.step < 60


@pytest.mark.parametrize(
    ("train", "found"),
    [
        ({"engine": {"use": "hf-trainer"}, "strategy": "fsdp2"}, "silently runs DDP"),
        ({"engine": {"use": "hf-trainer"}, "precision": "float16"}, "scale of gradients"),
        ({"engine": {"use": "hf-trainr"}}, "hf-trainer"),
        ({"engine": {"use": "hf-trainer", "speed": 9}}, "speed"),
        ({"engine": "hf-trainer"}, "engine"),
    ],
)
def test_what_it_cannot_do_is_refused(
    base: Path, tmp_path: Path, known: Registry, train: Any, found: str
) -> None:
    with pytest.raises((SurgeryError, Problems), match=found):
        train_recipe(recipe_of(tmp_path, known, **train), known)
    assert not (tmp_path / "out-run").exists()


@pytest.mark.parametrize("extra", ["accelerate"])
def test_what_it_needs_is_named(
    base: Path, tmp_path: Path, known: Registry, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    from surgery_plugins.engines import trainer

    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=extra):
        train_recipe(recipe_of(tmp_path, known, engine=HF), known)
