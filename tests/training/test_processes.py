"""Several processes on gloo: DDP and FSDP2 give the losses of one, and go on after a kill."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from surgery.checkpoint.tensors import TensorReader
from surgery.hooks.registry import Registry
from surgery.training.run import train_recipe
from tests.training.conftest import PLUGIN, SURGERIES, recipe_of
from tests.training.test_run import equal, losses, tensors


def command(recipe: Path, *options: str, count: int = 2) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    launch = launch if count > 1 else []
    return [
        sys.executable, *launch, "-m", "surgery", "train", str(recipe), "--plugin", str(PLUGIN),
        *options,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def run(recipe: Path, *options: str, count: int = 2) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(recipe, *options, count=count), env=environment(), capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip


def curve(folder: Path) -> list[float]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    by_step = {line["step"]: line["loss"] for line in found if "loss" in line}
    return [by_step[step] for step in sorted(by_step)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "more"), [("ddp", []), ("fsdp2", []), ("fsdp2", [{"use": "lean"}])],
    ids=["ddp", "fsdp2", "fsdp2 and lean"],
)  # fmt: skip
def test_two_processes_give_the_losses_of_one(
    base: Path, tmp_path: Path, known: Registry, strategy: str, more: list[Any]
) -> None:
    one = train_recipe(recipe_of(tmp_path, known, output="./one", micro=2), known)
    given: dict[str, Any] = {"micro": 2, "strategy": strategy, "ema": {"decay": 0.5}}
    recipe_of(tmp_path, known, output="./two", surgeries=[*SURGERIES, *more], **given)
    ran = run(tmp_path / "recipe.yaml")
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert curve(tmp_path / "two-run") == pytest.approx(losses(one), rel=1e-5)
    held = TensorReader(tmp_path / "two" / "changed.safetensors")
    assert held.entries.keys() == tensors(tmp_path / "one").keys()


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "kills"), [("ddp", 1), ("fsdp2", 2)], ids=["ddp", "fsdp2"])
def test_a_killed_training_goes_on_bit_by_bit(
    base: Path, tmp_path: Path, known: Registry, strategy: str, kills: int
) -> None:
    settings: dict[str, Any] = {
        "steps": 42, "micro": 2, "strategy": strategy, "save": {"every": 7, "keep": 2},
    }  # fmt: skip
    recipe_of(tmp_path, known, output="./whole", **settings)
    ran = run(tmp_path / "recipe.yaml")
    assert ran.returncode == 0, ran.stderr[-3000:]
    recipe_of(tmp_path, known, output="./killed", **settings)
    dice = random.Random(strategy)
    for attempt in range(kills):
        options = ["--resume"] if attempt else []
        process = subprocess.Popen(
            command(tmp_path / "recipe.yaml", *options), env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(tmp_path / "killed-run" / "metrics.jsonl", dice.randrange(3, 18) + 12 * attempt)
        kill(process)
    ran = run(tmp_path / "recipe.yaml", "--resume")
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert curve(tmp_path / "killed-run") == curve(tmp_path / "whole-run")
    assert equal(tensors(tmp_path / "killed"), tensors(tmp_path / "whole"))


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a launcher and its workers, all at once."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        one.kill()
    psutil.wait_procs(family)
    process.wait()


def wait_for(file: Path, step: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if file.is_file() and f'"step": {step},' in file.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step} in {file}")


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_checkpoint_is_read_by_any_number_of_processes(
    base: Path, tmp_path: Path, known: Registry, before: int, after: int
) -> None:
    settings: dict[str, Any] = {"steps": 40, "micro": 2, "save": {"every": 5}}
    one = train_recipe(recipe_of(tmp_path, known, output="./one", **settings), known)
    recipe_of(tmp_path, known, output="./other", **settings)
    process = subprocess.Popen(
        command(tmp_path / "recipe.yaml", count=before), env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(tmp_path / "other-run" / "metrics.jsonl", 12)
    kill(process)
    ran = run(tmp_path / "recipe.yaml", "--resume", count=after)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert curve(tmp_path / "other-run") == pytest.approx(losses(one), rel=1e-5)
    assert torch.allclose(
        *(next(iter(tensors(tmp_path / name).values())) for name in ("one", "other")), rtol=1e-3
    )


COMPLEX = """
import os, sys, torch
from pathlib import Path
import torch.distributed as dist
from torch import nn
from surgery.operate.objective import Step
from surgery.training.strategy import join_world, wrap

class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("table", torch.polar(torch.ones(2), torch.arange(2.0)))
    def forward(self, x):
        return torch.view_as_real(torch.view_as_complex(x.view(2, 2)) * self.table)

class Goal:
    def step(self, model, batch):
        return Step(loss=model(model.linear(batch)).square().sum())

world = join_world()
torch.manual_seed(0)
model = Turned()
wrapped = wrap(model, Goal(), sys.argv[1], world, [])
wrapped.module(torch.ones(4) * (world.rank + 1)).loss.backward()
assert model.table.is_complex() and model.linear.weight.grad is not None
dist.barrier()
(Path(sys.argv[2]) / f"turned-{world.rank}").touch()
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_complex_tables_are_left_alone(tmp_path: Path, strategy: str) -> None:
    script = tmp_path / "turned.py"
    script.write_text(COMPLEX)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ran = subprocess.run(
        [sys.executable, *launch, str(script), strategy, str(tmp_path)], env=environment(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert {path.name for path in tmp_path.glob("turned-*")} == {"turned-0", "turned-1"}
