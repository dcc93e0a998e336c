"""Records: ``metrics.jsonl`` always, event files where asked, and trackers that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from surgery.hooks.registry import Registry
from surgery.training import records
from surgery.training.run import train_recipe
from tests.training.conftest import recipe_of
from tests.training.test_run import lines, losses


def test_tensorboard_reads_what_was_recorded(base: Path, tmp_path: Path, known: Registry) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    log = {"every": 2, "trackers": ["tensorboard"]}
    trained = train_recipe(recipe_of(tmp_path, known, log=log), known)
    (file,) = (trained.run / "tensorboard").iterdir()
    found: dict[str, dict[int, float]] = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.tensor.float_val[0]
    written = {line["step"]: line["loss"] for line in lines(trained) if "loss" in line}
    assert list(written) == [1, 2, 4, 6, 8, 10, 12]
    assert found["loss"] == pytest.approx(written)
    assert {"norm", "norms/rest", "moved/rest", "lr/rest", "memory", "accuracy"} <= found.keys()


class Failing:
    """A tracker that fails when it is opened, at some step, or at the end."""

    when = ""
    calls = 0

    def __init__(self, *given: Any) -> None:
        if self.when == "open":
            raise OSError("no network")

    def __call__(self, numbers: Any, step: int) -> None:
        type(self).calls += 1
        if self.when == "log":
            raise RuntimeError("quota\nused up")

    def close(self) -> None:
        if self.when == "close":
            raise KeyError("run")


@pytest.mark.parametrize(
    ("when", "calls", "said"), [("open", 0, "no network"), ("log", 1, "quota used up"),
                                ("close", 12, "run")]
)  # fmt: skip
def test_a_tracker_that_fails_never_stops_a_training(
    base: Path, tmp_path: Path, known: Registry, monkeypatch: pytest.MonkeyPatch,
    when: str, calls: int, said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(records, "_Accelerated", Failing)
    monkeypatch.setattr(Failing, "when", when)
    monkeypatch.setattr(Failing, "calls", 0)
    heard: list[str] = []
    log = {"every": 1, "trackers": ["wandb", "tensorboard"]}
    recipe = recipe_of(tmp_path, known, log=log)
    trained = train_recipe(recipe, known, remark=heard.append)
    assert (trained.ended, len(losses(trained)), Failing.calls) == ("done", 12, calls)
    (warned,) = (line for line in heard if "wandb" in line)
    assert said in warned
    assert (trained.run / "tensorboard").is_dir()


def test_a_tracker_that_nobody_knows_is_said_once(
    base: Path, tmp_path: Path, known: Registry
) -> None:
    heard: list[str] = []
    recipe = recipe_of(tmp_path, known, log={"every": 1, "trackers": ["papyrus"]})
    assert train_recipe(recipe, known, remark=heard.append).ended == "done"
    (warned,) = (line for line in heard if "papyrus" in line)
    assert "tensorboard" in warned, "it names those that are known, or the extra to install"


def test_a_line_that_was_cut_off_is_left_out(base: Path, tmp_path: Path, known: Registry) -> None:
    recipe = recipe_of(tmp_path, known)
    trained = train_recipe(recipe, known)
    with (trained.run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    again = train_recipe(recipe, known, resume=True, force=True)
    assert len(losses(again)) == 12
