"""Laws of training: what is trained, what stays, what goes on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.checkpoint.tensors import TensorReader
from surgery.errors import Problems, SurgeryError, TrainingError
from surgery.hooks.registry import Registry
from surgery.training.run import Trained, train_recipe
from surgery.training.state import read_state
from tests.training.conftest import SURGERIES, recipe_of


def lines(trained: Trained) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (trained.run / "metrics.jsonl").read_text().splitlines()]


def losses(trained: Trained) -> list[float]:
    return [line["loss"] for line in lines(trained) if "loss" in line]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    reader = TensorReader(folder / "changed.safetensors")
    return {name: reader.get(name) for name in reader.entries}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(t, two[n]) for n, t in one.items())


def test_a_training_gives_an_ordinary_output(base: Path, tmp_path: Path, known: Registry) -> None:
    settings: dict[str, Any] = {"steps": 40, "optimizer": {"lr": 0.05}, "clip": None}
    head = {"use": "unfreeze", "at": {"path": "lm_head"}}
    recipe = recipe_of(tmp_path, known, surgeries=[*SURGERIES, head], **settings)
    trained = train_recipe(recipe, known)
    assert trained.ended == "done"
    found = losses(trained)
    assert len(found) == 40
    assert sum(found[-5:]) < 0.7 * sum(found[:5])
    loaded = surgery.load(tmp_path / "out")
    assert len(loaded.plan.trainable) == 9
    assert all(bool(t.any()) for t in tensors(tmp_path / "out").values())
    old = TensorReader(base)
    loaded.undo()
    state = loaded.model.state_dict()
    assert all(torch.equal(old.get(name), state[name]) for name in old.entries)


def test_the_same_recipe_trains_to_the_same_bits(
    base: Path, tmp_path: Path, known: Registry
) -> None:
    one = train_recipe(recipe_of(tmp_path, known, output="./a"), known)
    two = train_recipe(recipe_of(tmp_path, known, output="./b"), known)
    assert losses(one) == losses(two)
    assert equal(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


@pytest.mark.parametrize("micro", [1, 2])
def test_a_batch_may_be_split(base: Path, tmp_path: Path, known: Registry, micro: int) -> None:
    one = train_recipe(recipe_of(tmp_path, known, output="./a"), known)
    two = train_recipe(recipe_of(tmp_path, known, output="./b", micro=micro), known)
    assert losses(one) == pytest.approx(losses(two), rel=1e-5)


@pytest.mark.parametrize("extra", [{}, {"ema": {"decay": 0.9}}, {"workers": 2}], ids=str)
def test_a_stopped_training_goes_on_bit_by_bit(
    base: Path, tmp_path: Path, known: Registry, extra: Any
) -> None:
    whole = train_recipe(recipe_of(tmp_path, known, output="./a", **extra), known)
    import surgery.training.loop as loop

    count, before = 0, loop.Loop._after

    def stop_after_5(self: Any, number: int) -> str:
        nonlocal count
        count += 1
        self._stopping = count == 5
        return before(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_after", stop_after_5)
        recipe = recipe_of(tmp_path, known, output="./b", **extra)
        stopped = train_recipe(recipe, known)
    assert (stopped.ended, stopped.progress.step, stopped.folder) == ("stopped", 5, None)
    assert not (tmp_path / "b").exists()
    with pytest.raises(SurgeryError, match="--resume"):
        train_recipe(recipe, known)
    again = train_recipe(recipe, known, resume=True)
    assert losses(again) == losses(whole)
    assert equal(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("zero", "exactly 0"), ("nan", "nan"), ("detached", "without a gradient"),
        ("constant", "the same loss"), ("bound", "its bound 2"),
    ],
)  # fmt: skip
def test_a_loss_that_teaches_nothing_stops_the_training(
    base: Path, tmp_path: Path, known: Registry, how: str, found: str
) -> None:
    recipe = recipe_of(tmp_path, known, objective={"use": "test/counting", "how": how})
    with pytest.raises((TrainingError, RuntimeError), match=found):
        train_recipe(recipe, known)
    assert not (tmp_path / "out").exists()


def test_samples_that_fail_are_counted_and_limited(
    base: Path, tmp_path: Path, known: Registry
) -> None:
    data = {"use": "test/numbers", "count": 64, "broken": 1}
    with pytest.raises(TrainingError, match="damaged"):
        train_recipe(recipe_of(tmp_path, known, data=data, steps=16), known)
    recipe = recipe_of(tmp_path, known, data=data, max_failed=0.05, steps=16)
    trained = train_recipe(recipe, known, force=True)
    assert trained.progress.failed == 1
    assert [line["failed"] for line in lines(trained) if "failed" in line] == [0]


def test_evaluation_keeps_the_best_and_ends_early(
    base: Path, tmp_path: Path, known: Registry
) -> None:
    evaluate = {"every": 2, "metric": "accuracy", "patience": 2}
    judged = {"use": "test/numbers", "count": 10}
    recipe = recipe_of(tmp_path, known, evaluation=judged, evaluate=evaluate, steps=200)
    trained = train_recipe(recipe, known)
    assert trained.ended == "patience"
    found = [line["evaluation"] for line in lines(trained) if "evaluation" in line]
    assert trained.progress.best == max(one["accuracy"] for one in found)
    best = json.loads((trained.run / "checkpoints" / "best.json").read_text())["folder"]
    assert best == f"step-{trained.progress.best_step:08d}"
    assert (trained.run / "checkpoints" / best).is_dir()


@pytest.mark.parametrize("extra", [{}, {"ema": {"decay": 0.5}}], ids=["", "ema"])
def test_the_result_can_be_the_best_state(
    base: Path, tmp_path: Path, known: Registry, extra: Any
) -> None:
    settings: dict[str, Any] = {
        "steps": 12, "optimizer": {"lr": 0.2}, "schedule": {"name": "constant"}, **extra,
        "evaluation": {"use": "test/numbers", "count": 10},
        "evaluate": {"every": 2, "metric": "accuracy"},
    }  # fmt: skip
    found = {}
    for kind in ("best", "last"):
        recipe = recipe_of(tmp_path, known, output=f"./{kind}", save={"output": kind}, **settings)
        found[kind] = train_recipe(recipe, known)
    best = found["best"].progress.best_step
    assert best is not None
    assert best < 12, "a case in which the last state is the best shows nothing"
    kept = read_state(found["best"].run / "checkpoints" / f"step-{best:08d}")
    prefix = "average/" if extra else ""
    values = kept.extra if extra else kept.model
    ours = tensors(tmp_path / "best")
    assert all(torch.equal(t, values[prefix + n]) for n, t in ours.items())
    assert not equal(ours, tensors(tmp_path / "last"))


def test_a_training_that_has_ended_has_nothing_to_do(
    base: Path, tmp_path: Path, known: Registry
) -> None:
    recipe = recipe_of(tmp_path, known, steps=3)
    first = train_recipe(recipe, known)
    remarks: list[str] = []
    again = train_recipe(recipe, known, resume=True, remark=remarks.append)
    assert (again.folder, again.ended, again.progress.step) == (first.folder, "done", 3)
    assert "nothing to do" in remarks[0]
    assert len(losses(first)) == 3
    with pytest.raises(SurgeryError, match="nothing stands"):
        train_recipe(recipe_of(tmp_path, known, steps=4), known, resume=True)


def test_a_whole_model_can_be_the_result(base: Path, tmp_path: Path, known: Registry) -> None:
    from transformers import LlamaForCausalLM

    steps = [{"use": "freeze"}, {"use": "unfreeze", "at": {"path": "lm_head"}}]
    output = {"path": "./whole", "save": "full"}
    trained = train_recipe(recipe_of(tmp_path, known, surgeries=steps, output=output), known)
    plain, info = LlamaForCausalLM.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not any(info.values())
    old = LlamaForCausalLM.from_pretrained(base).state_dict()
    kept = read_state(trained.run / "checkpoints" / "step-00000012").model
    changed = {n for n, t in plain.state_dict().items() if not torch.equal(t, old[n])}
    assert changed == {"lm_head.weight"} == kept.keys()
    assert torch.equal(plain.lm_head.weight, kept["lm_head.weight"])
    loaded = surgery.load(tmp_path / "whole")
    assert torch.equal(loaded.model.lm_head.weight, kept["lm_head.weight"])


def test_groups_have_rates_of_their_own(base: Path, tmp_path: Path, known: Registry) -> None:
    groups = [{"tensors": "**_B", "scale": 16.0}, {"at": {"layers": "0"}, "lr": 0.5}]
    schedule = {"name": "linear", "warmup": 2}
    recipe = recipe_of(tmp_path, known, groups=groups, schedule=schedule, steps=4)
    rates = [line["lr"] for line in lines(train_recipe(recipe, known)) if "lr" in line]
    assert rates[0] == pytest.approx({"group0": 0.16 / 3, "group1": 0.5 / 3, "rest": 0.01 / 3})
    assert rates[2] == pytest.approx({"group0": 0.16, "group1": 0.5, "rest": 0.01})


@pytest.mark.parametrize(
    ("train", "found"),
    [
        ({"steps": None}, "one of steps and epochs"),
        ({"guards": {"lost": "warn"}}, "lost"),
        ({"objective": {"use": "test/countin"}}, "test/counting"),
        ({"objective": {"use": "test/counting", "haw": 1}}, "how"),
        ({"batch": 6, "micro": 4}, "divides"),
        ({"groups": [{"tensors": "nothing"}]}, "groups"),
        ({"strategy": "ddp"}, "torchrun"),
        ({"offload": True}, "expected strategy fsdp2 beside offload"),
        ({"offload": True, "strategy": "fsdp2"}, "expected an accelerator"),
    ],
)
def test_mistakes_are_named(
    base: Path, tmp_path: Path, known: Registry, train: Any, found: str
) -> None:
    with pytest.raises((SurgeryError, Problems), match=found):
        train_recipe(recipe_of(tmp_path, known, **train), known)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_forwards_train_float32_tensors(
    base: Path, tmp_path: Path, known: Registry, precision: str
) -> None:
    trained = train_recipe(recipe_of(tmp_path, known, precision=precision, steps=25), known)
    assert losses(trained)[-1] < losses(trained)[0]
    assert all(t.dtype == torch.float32 for t in tensors(tmp_path / "out").values())


def test_recomputed_layers_give_the_same_losses(
    base: Path, tmp_path: Path, known: Registry
) -> None:
    one = train_recipe(recipe_of(tmp_path, known, output="./a"), known)
    two = train_recipe(recipe_of(tmp_path, known, output="./b", recompute=True), known)
    assert losses(one) == losses(two)
