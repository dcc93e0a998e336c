"""Case 001: a rotary assertion that looked like LoRA's fault, under nn.DataParallel."""

from __future__ import annotations

import pytest
import torch

from surgery.flow.diagnose import diagnose
from surgery.flow.replicate import compared, complex_lost
from tests.diagnose.cases import FREEZE, LORA, Halves, NaiveCast, image, trial, tried, trunk


def test_at_the_right_size_all_is_well() -> None:
    found = tried([FREEZE, LORA])
    assert found.ok
    assert found.culprit is None
    assert [one.name for one in found.trials] == [
        "base", "steps[0] freeze alone", "steps[1] lora alone", "first 2: freeze, lora",
    ]  # fmt: skip
    assert all(one.status == "passed" for one in found.trials)


@pytest.mark.parametrize("size", [(140, 140), (112, 126)])
def test_a_wrong_grid_fails_at_the_first_global_block_with_or_without_lora(
    size: tuple[int, int],
) -> None:
    found = tried([LORA], size)
    assert not found.ok
    assert found.culprit is found.trials[0]
    trouble = found.trials[0].trouble
    assert trouble is not None
    assert (trouble.breaks, trouble.where) == ("shapes", "blocks.1.attn")
    assert "assert self.freqs_cis.shape" in trouble.what
    assert trouble.contract is not None
    assert trouble.contract.contract == "image size"
    assert "126 x 126" in trouble.contract.wanted
    assert found.trials[1].like == "base"
    assert found.innocent == ("steps[0] lora",)


def test_a_grid_of_as_many_patches_runs_and_is_named_all_the_same() -> None:
    found = tried([LORA], (42, 378))
    trouble = found.trials[0].trouble
    assert trouble is not None
    assert (trouble.breaks, trouble.where) == ("contract", "inputs.x")
    assert "3 x 27 patches" in trouble.what


@pytest.mark.parametrize(("pairs", "breaks"), [(True, "shapes"), (False, "contract")])
def test_a_table_made_real_fails_at_block_0_and_the_cast_is_to_blame(
    pairs: bool, breaks: str
) -> None:
    found = tried([LORA, NaiveCast(pairs=pairs)])
    assert not found.ok
    assert found.trials[0].status == "passed"
    culprit = found.culprit
    assert culprit is not None
    assert culprit.name == "steps[1] naive-cast alone"
    assert culprit.trouble is not None
    assert culprit.trouble.breaks == breaks
    assert culprit.trouble.where.startswith("blocks.0.attn")
    assert culprit.trouble.contract is not None
    assert culprit.trouble.contract.contract == "rope table"
    assert "complex" in culprit.trouble.contract.wanted
    assert found.innocent == ("steps[0] lora",)
    assert trial(found, "first 2: lora, naive-cast").like == culprit.name


@pytest.mark.filterwarnings("ignore:Casting complex")
def test_a_base_that_was_cast_is_told_from_a_wrong_grid() -> None:
    cast = trunk().to(torch.float64).to(torch.float32)
    found = diagnose(cast, LORA, inputs=image(126, 126))
    assert found.culprit is found.trials[0]
    trouble = found.trials[0].trouble
    assert trouble is not None
    assert trouble.where == "blocks.0.attn.freqs_cis"
    assert trouble.contract is not None
    assert trouble.contract.contract == "rope table"


def test_replicas_with_real_tables_fail_at_block_0_and_with_complex_ones_agree() -> None:
    model = trunk()
    batch = {"x": torch.cat([image(126, 126)["x"]] * 2)}
    bad = compared(model, Halves(model, real=True), batch, "two halves").trouble
    assert bad is not None
    assert (bad.breaks, bad.where) == ("parallel", "blocks.0.attn")
    good = compared(model, Halves(model, real=False), batch, "two halves")
    assert good.trouble is None
    assert [check.status for check in good.checks] == ["passed"]


@pytest.mark.parametrize(
    ("version", "lost"),
    [("2.6.0", True), ("2.10.0+cu128", True), ("2.11.0", False), ("2.11.0.dev1", False),
     ("2.13.0+cpu", False)],
)  # fmt: skip
def test_older_versions_of_torch_lose_complex_tensors_on_replicas(version: str, lost: bool) -> None:
    found = complex_lost(trunk(), version)
    assert (found is not None) == lost
    if found is not None:
        assert found.where == "blocks.0.attn.freqs_cis"
        assert "DistributedDataParallel" in found.instead
    assert complex_lost(torch.nn.Linear(2, 2), version) is None


def test_a_surgery_that_mends_the_base_is_no_fault() -> None:
    rope = {"use": "rope", "with": {"image_size": 140}}
    found = tried([rope, LORA], (140, 140))
    assert found.ok
    assert found.trials[0].status == "failed"
    assert trial(found, "steps[0] rope alone").status == "passed"
    assert trial(found, "steps[1] lora alone").like == "base"


def test_older_torch_breaks_both_the_recipe_and_the_base_on_replicas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("surgery.flow.replicate.torch.__version__", "2.10.0")
    monkeypatch.setattr("surgery.flow.diagnose.distributed", lambda job: _skip())
    found = diagnose(trunk(), LORA, inputs=image(126, 126), parallel=True)
    assert not found.ok
    assert found.culprit is not None
    assert found.culprit.name == "nn.DataParallel: base"
    assert trial(found, "nn.DataParallel: all surgeries").like == "nn.DataParallel: base"
    assert found.innocent == ("steps[0] lora",)


def _skip() -> object:
    from surgery.flow.replicate import Outcome

    return Outcome(skipped="left out")


@pytest.mark.slow
def test_two_processes_agree_with_one_and_what_cannot_run_is_said() -> None:
    found = diagnose(trunk(), [FREEZE, LORA], inputs=image(126, 126), parallel=True)
    assert found.ok
    done = trial(found, "DDP, gloo: all surgeries")
    assert done.status == "passed"
    assert "processes" in done.checks[0].detail
    if torch.cuda.device_count() < 2:
        assert "GPUs alone" in trial(found, "nn.DataParallel: all surgeries").skipped
