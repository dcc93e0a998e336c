"""Laws of the preflight: four points, one step, no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from surgery.hooks.registry import Registry
from surgery.training import need, strategy
from surgery.training.need import counted
from surgery.training.preflight import preflight
from tests.training.conftest import recipe_of

POINTS = ["loads and freezes", "forward", "memory at the batch size", "frozen is frozen"]


def ended(folder: Path, known: Registry, **train: Any) -> dict[str, tuple[str, str]]:
    found = preflight(recipe_of(folder, known, **train), known)
    assert [check.name for check in found.checks] == POINTS
    assert found.ok == all(check.status != "failed" for check in found.checks)
    return {check.name: (check.status, check.detail) for check in found.checks}


def test_a_sound_recipe_passes_all_four_points_and_leaves_no_trace(
    base: Path, tmp_path: Path, known: Registry
) -> None:
    recipe_of(tmp_path, known)
    before = sorted(tmp_path.rglob("*"))
    found = ended(tmp_path, known)
    assert sorted(tmp_path.rglob("*")) == before
    assert [status for status, _ in found.values()] == ["passed"] * 4
    assert "in 8 tensors are trained" in found["loads and freezes"][1]
    assert "input_ids 4 x" in found["forward"][1]


@pytest.mark.parametrize(("how", "told"), [("zero", "exactly 0"), ("detached", "a gradient")])
def test_a_loss_that_teaches_nothing_fails_the_forward(
    base: Path, tmp_path: Path, known: Registry, how: str, told: str
) -> None:
    found = ended(tmp_path, known, objective={"use": "test/counting", "how": how})
    assert found["forward"][0] == "failed"
    assert told in found["forward"][1]
    assert found["memory at the batch size"][0] == "skipped"


def test_a_device_that_is_too_small_fails_the_memory(
    base: Path, tmp_path: Path, known: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(need, "_memory", lambda: 1000)
    found = ended(tmp_path, known)
    assert found["memory at the batch size"][0] == "failed"
    assert "of 0.0 MiB" in found["memory at the batch size"][1]


def test_a_step_that_runs_out_of_memory_fails_the_memory(
    base: Path, tmp_path: Path, known: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, batch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(strategy.Trainee, "forward", full)
    found = ended(tmp_path, known)
    assert [status for status, _ in found.values()] == ["passed", "skipped", "failed", "skipped"]
    assert "lower `micro`" in found["memory at the batch size"][1]


def test_frozen_tensors_that_something_writes_to_are_named(
    base: Path, tmp_path: Path, known: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = strategy.Trainee.forward

    def writing(self: Any, batch: Any) -> Any:
        with torch.no_grad():
            self.model.model.norm.weight.add_(1)
        return before(self, batch)

    monkeypatch.setattr(strategy.Trainee, "forward", writing)
    status, told = ended(tmp_path, known)["frozen is frozen"]
    assert status == "failed"
    assert "model.norm.weight" in told


def test_dropout_among_what_is_trained_is_no_fault(
    base: Path, tmp_path: Path, known: Registry
) -> None:
    at = {"role": ["attention.q", "attention.v"]}
    steps = [{"use": "freeze"}, {"use": "lora", "at": at, "with": {"rank": 4, "dropout": 0.5}}]
    assert ended(tmp_path, known, surgeries=steps)["frozen is frozen"][0] == "passed"


def test_what_forwards_keep_is_counted_once_without_the_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(16, 4)
    with counted(model) as count:
        model(x).sum().backward()
        most = count.most
        model(x[:8].clone()).sum().backward()
    assert most == 4 * 16 * (4 + 8)  # the input, and tanh's output, which the last layer keeps too
    assert count.most == most


def test_recomputed_layers_keep_less() -> None:
    layer = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(8)))

    def kept(again: bool) -> int:
        x = torch.randn(32, 8, requires_grad=True)
        with counted(layer) as count:
            out = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
            out.sum().backward()
        return count.most

    assert kept(True) < kept(False) / 4
