"""What starts a training elsewhere is a command that this machine can check, and one it can run."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from surgery.hooks.registry import Registry
from surgery.training.launch import LAUNCHERS, Job
from surgery.training.run import train_recipe
from tests.training.conftest import PLUGIN, recipe_of
from tests.training.test_processes import curve
from tests.training.test_run import losses

JOB = Job("my recipe.yaml", "job", machines=2, processes=4, devices="A100", sets=("a=b c",))


def test_every_command_passes_recipe_and_options_whole() -> None:
    for name in ("torchrun", "slurm", "sky"):
        line = next(x for x in LAUNCHERS[name](JOB).splitlines() if "surgery train" in x)
        words = shlex.split(line.rstrip("& "))
        assert words[words.index("train") :] == [
            "train",
            "my recipe.yaml",
            "--resume",
            "--set=a=b c",
        ]


def test_the_batch_script_is_one_that_bash_reads(tmp_path: Path) -> None:
    file = tmp_path / "job.sh"
    file.write_text(LAUNCHERS["slurm"](JOB))
    subprocess.run(["bash", "-n", str(file)], check=True)
    assert "--gpus-per-node=4" in file.read_text()
    assert "--gpus" not in LAUNCHERS["slurm"](Job("r.yaml", "job"))


def test_the_batch_script_hands_the_signal_on_and_queues_again(tmp_path: Path) -> None:
    fakes = tmp_path / "bin"
    fakes.mkdir()
    log = tmp_path / "log"
    say = f'#!/bin/bash\necho "$(basename $0) $*" >> {log}\n'
    (fakes / "scontrol").write_text(say + "echo node1\necho node2\n")
    (fakes / "srun").write_text(
        say + 'trap "exit 1" TERM\nkill -TERM $PPID\nwhile true; do sleep 0.05; done\n'
    )
    for file in fakes.iterdir():
        file.chmod(0o755)
    script = tmp_path / "job.sh"
    script.write_text(LAUNCHERS["slurm"](JOB))
    path = f"{fakes}{os.pathsep}{os.environ['PATH']}"
    given = {"PATH": path, "SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n"}
    subprocess.run(["bash", str(script)], env=given, timeout=20, check=False)
    called = log.read_text().splitlines()
    assert called[-1] == "scontrol requeue 17"
    assert "--rdzv-endpoint node1:29500" in called[1]


def test_the_task_is_yaml_with_what_was_asked_for() -> None:
    task = yaml.safe_load(LAUNCHERS["sky"](JOB))
    assert (task["num_nodes"], task["resources"]["accelerators"]) == (2, "A100:4")
    subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)
    assert "resources" not in yaml.safe_load(LAUNCHERS["sky"](Job("r.yaml", "job")))


def test_the_script_for_ray_is_python() -> None:
    tree = ast.parse(LAUNCHERS["ray"](JOB))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    scaling = next(
        c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "ScalingConfig"
    )
    train = next(c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "train")
    assert {k.arg: ast.literal_eval(k.value) for k in train.keywords} == {
        "resume": True, "sets": ["a=b c"],
    }  # fmt: skip
    assert {k.arg: ast.literal_eval(k.value) for k in scaling.keywords} == {
        "num_workers": 8, "use_gpu": True,
    }  # fmt: skip


def surgery(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "surgery", *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_mistakes_in_the_recipe_show_before_it_is_sent_anywhere(
    base: Path, tmp_path: Path, known: Registry
) -> None:
    recipe_of(tmp_path, known)
    file = str(tmp_path / "recipe.yaml")
    found = surgery("launch", file, "--plugin", str(PLUGIN), "--set", "train.batsh=3")
    assert found.returncode == 2
    assert "batch" in found.stderr


@pytest.mark.slow
def test_the_command_that_is_printed_trains(base: Path, tmp_path: Path, known: Registry) -> None:
    recipe_of(tmp_path, known, micro=2)
    given = ["--plugin", str(PLUGIN), "--processes", "2"]
    found = surgery("launch", str(tmp_path / "recipe.yaml"), *given, "--json")
    assert found.returncode == 0, found.stderr
    words = shlex.split(json.loads(found.stdout)["script"])
    assert words[0] == "torchrun"
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words[1:]], cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}, timeout=240,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert (tmp_path / "out" / "surgery.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_script_for_ray_trains_as_one_process_does(
    base: Path, tmp_path: Path, known: Registry
) -> None:
    pytest.importorskip("ray.train", reason="the extra ray is not installed", exc_type=ImportError)
    one = train_recipe(recipe_of(tmp_path, known, output="./one", micro=2), known)
    recipe_of(tmp_path, known, output="./two", micro=2)
    given = ["--plugin", str(PLUGIN), "--processes", "2", "--print", "ray"]
    script = tmp_path / "job.py"
    found = surgery("launch", str(tmp_path / "recipe.yaml"), *given)
    assert found.returncode == 0, found.stderr
    script.write_text(found.stdout)
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, check=False, timeout=500,
        capture_output=True, text=True,
        env={
            **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path),
            "RAY_TRAIN_V2_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "0",
        },
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert curve(tmp_path / "two-run") == pytest.approx(losses(one), rel=1e-5)
