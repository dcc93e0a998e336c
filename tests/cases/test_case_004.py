"""Case 004: Sa2VA by pseudo-gumbel: two tokenizers, two counts, a loss that looks healthy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import AutoTokenizer

import surgery
from surgery.errors import PatientError, RefusedError, TrainingError
from surgery_plugins.objectives.pseudo_gumbel.splice import spliced
from surgery_plugins.objectives.segmentation.loss import losses
from surgery_plugins.sources.hf import HfSource
from tests.pseudo_gumbel import kit
from tests.segmentation.kit import disc, fallen
from tests.training.test_processes import environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the shipped recipe with its model and images; nobody writes into it."""
    root = tmp_path_factory.mktemp("case")
    kit.shipped(root)
    return root


def recipe(folder: Path, root: Path, **sets: Any) -> Any:
    """Give the recipe, with an output of its own."""
    return kit.again(folder, **{"output.path": str(root / "out"), **sets})


def test_a_second_tokenizer_finds_no_token_of_masks_and_the_loss_is_a_stand_in(
    tmp_path: Path,
) -> None:
    kit.tokenizer().save_pretrained(tmp_path)
    own = AutoTokenizer.from_pretrained(tmp_path)
    own.add_tokens(["[SEG]"], special_tokens=True)
    fresh = AutoTokenizer.from_pretrained(tmp_path)
    number = own.convert_tokens_to_ids("[SEG]")
    assert fresh("[SEG]").input_ids[0] == fresh("[").input_ids[0]  # and not an error
    found = torch.tensor(fresh("It is [SEG].").input_ids) == number
    assert int(found.sum()) == 0
    loss = torch.tensor(0.0, requires_grad=True) if not found.any() else None
    assert loss is not None
    loss.backward()  # nothing complains


def test_the_second_tokenizer_is_named_before_the_first_step() -> None:
    owner = kit.patient()
    why = kit.objective().refuse(replace(owner, tokenizer=kit.tokenizer()))
    assert why is not None
    assert "[SEG] was never added to this tokenizer, or to another copy of it" in why
    assert "use: tokens, with: {add: ['[SEG]']}" in why


def test_the_recipe_without_its_tokens_stops_with_that_and_writes_nothing(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=r"\[SEG\] was never added"):
        kit.run(recipe(folder, tmp_path, **{"surgeries.2.with.add": ["<vp>", "</vp>"]}))
    assert not (tmp_path / "out").exists()


def test_the_fallback_for_257_and_256_wrote_nothing() -> None:
    embeddings, chosen = torch.zeros(300, 4), torch.zeros(300, dtype=torch.bool)
    chosen[:257] = True
    embeddings[chosen][:256] = torch.ones(256, 4)
    assert not bool(embeddings.any())
    ids = torch.where(chosen, 9, 1)
    with pytest.raises(TrainingError, match=r"256 places, .*got 257: in stretches of 257"):
        spliced(embeddings, ids, 9, torch.ones(256, 4), "ask")


def test_three_ways_to_count_a_small_region_give_three_numbers_and_ours_is_counted_once() -> None:
    mask = torch.zeros(1, 1, 448, 448)
    mask[..., 205:251, 205:251] = 1
    mean = int((interpolate(mask, (16, 16), mode="area") > 0.5).sum())
    near = int((interpolate(mask, (16, 16), mode="nearest") > 0).sum())
    most = int((torch.nn.functional.max_pool2d(mask, 28) > 0).sum())
    assert len({mean, near, most}) == 3
    owner = kit.patient()
    image = disc(0, 448, 448)["image"]
    row = kit.objective().encode({"image": image, "mask": mask[0, 0].numpy()}, owner, None)  # type: ignore[arg-type]
    places = int((row["ask"] == owner.config.vlm_config.image_token_id).sum())
    assert places == kit.PLACES + int(row["cells"].sum())


def test_weights_that_are_loaded_after_wrapping_are_dropped_in_silence() -> None:
    words = kit.tokenizer("[SEG]")
    model = kit.internvl(words)
    state = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    layers = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    model.model.language_model = get_peft_model(model.model.language_model, layers)
    dropped = model.load_state_dict(state, strict=False).unexpected_keys
    assert all("language_model" in name for name in dropped)
    assert len(dropped) == sum("language_model" in name for name in state)


def test_weights_with_the_names_of_a_wrapped_model_are_all_named(tmp_path: Path) -> None:
    words = kit.tokenizer("[SEG]")
    model = kit.grounded(words)
    state = {n.replace("language_model.", "language_model.base_model.model."): t.clone()
             for n, t in model.state_dict().items()}  # fmt: skip
    model.save_pretrained(tmp_path, state_dict=state)
    words.save_pretrained(tmp_path)
    with pytest.raises(PatientError, match=r"is missing; .* and \d+ more"):
        HfSource(path=str(tmp_path)).load()


def test_a_dice_loss_of_a_half_is_its_ceiling_and_is_shown_as_that() -> None:
    target = torch.tensor(disc(0)["mask"])[None].float()
    empty = torch.full_like(target, -50.0)
    half = losses(empty, target, torch.ones_like(target), (0.0, 0.5))
    assert float(half) == pytest.approx(0.5, abs=1e-3)
    owner, one = kit.patient(), kit.objective(anchor=0.0, bce=0.0)
    owner.model.requires_grad_(True)
    batch = kit.batch(owner, one)
    share, count = one.step(owner.model, batch).metrics["dice_of_ceiling"]
    assert 0 < float(share) / float(count) < 1


def test_an_average_in_bfloat16_never_moves() -> None:
    torch.manual_seed(0)
    student = torch.randn(10_000) * 0.02
    coarse, fine = student.to(torch.bfloat16), student.clone()
    start, goal = coarse.clone(), student * 1.05
    for _ in range(200):
        coarse = coarse.lerp(goal.to(torch.bfloat16), 0.001)
        fine = fine.lerp(goal, 0.001)
    assert float((coarse != start).float().mean()) < 0.01
    assert float(((fine - student) / (goal - student)).mean()) > 0.15


@pytest.mark.slow
def test_samples_that_fail_are_counted_and_listed_and_no_loss_is_made_up(
    folder: Path, tmp_path: Path
) -> None:
    sets = {"train.objective.least_cells": 2, "train.max_failed": 0.9}
    done, lines = kit.run(recipe(folder, tmp_path, **sets))
    assert done.progress.failed > 0
    assert "region of 2 cells at least" in json.dumps(lines)
    again = {**sets, "train.max_failed": 0.0, "output.path": str(tmp_path / "again")}
    with pytest.raises(TrainingError, match="region of 2 cells at least"):
        kit.run(recipe(folder, tmp_path, **again))


def trained(path: Path) -> dict[str, Tensor]:
    loaded = surgery.load(path)
    return {n: t for n, t in loaded.model.state_dict().items() if n in loaded.plan.trainable}


@pytest.mark.slow
def test_a_run_goes_on_with_the_teacher_it_had(folder: Path, tmp_path: Path) -> None:
    sets = {"train.steps": 4, "train.save.every": 2, "train.objective.decay": 0.5}
    given = recipe(folder, tmp_path, **sets)
    done, lines = kit.run(given)
    wanted = trained(tmp_path / "out")
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(done.run / "checkpoints" / "step-00000004")
    (done.run / "checkpoints" / "last.json").unlink(missing_ok=True)
    (done.run / "metrics.jsonl").unlink()
    _, lines = kit.run(given, resume=True)
    again = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert again == {step: loss for step, loss in losses.items() if step > 2}
    found = trained(tmp_path / "out")
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())


def test_the_recipe_runs_and_what_it_makes_is_an_ordinary_output(
    folder: Path, tmp_path: Path
) -> None:
    done, lines = kit.run(recipe(folder, tmp_path))
    assert done.ended == "done"
    assert all(check.status == "passed" for check in done.checks)
    found = next(line for line in lines if "loss" in line)
    assert {"dice", "iou", "bce", "dice_of_ceiling", "agreement", "distinct", "entropy", "surprise",
            "caption_tokens", "region_cells"} <= found.keys()  # fmt: skip
    loaded = surgery.load(tmp_path / "out")
    assert loaded.patient.tokenizer.convert_tokens_to_ids("[SEG]") == len(kit.tokenizer())
    assert loaded.patient.config.vlm_config.text_config.vocab_size == len(loaded.patient.tokenizer)
    assert {name.split(".")[0] for name in loaded.plan.trainable} == {
        "vlm", "sam", "text_hidden_fcs"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_loss_falls_and_all_guards_pass(folder: Path, tmp_path: Path, precision: str) -> None:
    sets = {"train.steps": 30, "train.optimizer.lr": 0.01, "train.precision": precision}
    done, lines = kit.run(recipe(folder, tmp_path, **sets))
    assert done.ended == "done"
    assert fallen(lines) < 0.5


def launched(folder: Path, output: Path, strategy: str) -> subprocess.CompletedProcess[str]:
    """Train in two processes."""
    sets = {**kit.SETS, "output.path": str(output), "train.strategy": strategy, "train.batch": 4,
            "train.micro": 1}  # fmt: skip
    options = [part for k, v in sets.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m",
         "surgery", "train", str(folder / "sa2va-pseudo-gumbel.yaml"), *options],
        env=environment(), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_have_the_same_gradients_since_all_runs_inside_the_wrapped_module(
    folder: Path, tmp_path: Path
) -> None:
    ran = launched(folder, tmp_path / "out", "ddp")
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert surgery.load(tmp_path / "out").plan.trainable


@pytest.mark.slow
def test_tensors_spread_over_processes_are_refused(folder: Path, tmp_path: Path) -> None:
    ran = launched(folder, tmp_path / "out", "fsdp2")
    assert ran.returncode != 0
    assert "the teacher has whole tensors" in " ".join(ran.stderr.split())
    assert not (tmp_path / "out").exists()
