"""Bad input ends in one clear line and a status other than 0; the earlier output is intact."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from surgery.checkpoint.publish import publish
from tests.command import Ran
from tests.flow.conftest import write_recipe
from tests.flow.test_recipe import tree

Run = Callable[..., Ran]


def one_line(ran: Ran) -> str:
    lines = [line for line in ran.err.strip().splitlines() if line.startswith("surgery: ")]
    assert ran.status not in (0, None)
    assert ran.out == ""
    assert len(lines) == 1, ran.err
    assert "Traceback" not in ran.err
    assert not lines[0].startswith("surgery: unexpected")
    return lines[0]


RECIPES = {
    "empty": b"",
    "binary": bytes(range(256)),
    "not UTF-8": "recipe: 1\n# é\n".encode("latin-1"),
    "a list": b"- recipe: 1\n",
    "cut in half": b"recipe: 1\nsurgeries:\n  - use: 'fre",
    "unknown surgery": b"recipe: 1\nsurgeries: [{use: loar}]\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_is_none(name: str, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(RECIPES[name])
    ran = run("apply", file)
    assert ran.status == 2
    assert "recipe.yaml" in one_line(ran) or ran.err.count("recipe.yaml") >= 1


def test_a_recipe_that_is_not_there_names_the_shipped_ones(tmp_path: Path, run: Run) -> None:
    assert "quickstart" in one_line(run("apply", "quickstrat"))


def test_what_a_surgery_raises_names_the_line_of_its_step(recipe: Path, run: Run) -> None:
    lora = {"at": {"role": "attention.q"}, "with": {"rank_pattern": {"none": 3}}}
    surgeries = [{"use": "freeze"}, {"use": "lora", **lora}]
    file = write_recipe(recipe, surgeries=surgeries)
    line = one_line(run("plan", file))
    assert f"{file}:" in line
    assert "surgeries[1] (lora): lora.rank_pattern and alpha_pattern: expected" in line
    ran = run("plan", file, "--json")
    assert "surgeries[1] (lora): lora" in json.loads(ran.out)["errors"][0]["where"]


def truncate(base: Path) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def overlap(base: Path) -> None:
    file = base / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    first, second = [n for n in names if header[n]["shape"] == header[names[-1]]["shape"]][:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def outside(base: Path) -> None:
    (base.parent / "secret").mkdir()
    (base / "model.safetensors").rename(base.parent / "secret" / "x.safetensors")
    (base / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "../secret/x.safetensors"}})
    )


def link(base: Path) -> None:
    (base / "model.safetensors").rename(base.parent / "x.safetensors")
    (base / "model.safetensors").symlink_to(base.parent / "x.safetensors")


def pickles(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


def empty(base: Path) -> None:
    for file in base.iterdir():
        file.unlink()


BASES: dict[str, Callable[[Path], object]] = {
    "missing": lambda base: base.rename(base.parent / "elsewhere"),
    "empty": empty,
    "without config": lambda base: (base / "config.json").unlink(),
    "config is no JSON": lambda base: (base / "config.json").write_text("{"),
    "of an unknown type": lambda base: (base / "config.json").write_text('{"model_type": "lama"}'),
    "without weights": lambda base: (base / "model.safetensors").unlink(),
    "truncated": truncate,
    "overlapping": overlap,
    "an index that leads outside": outside,
    "a link that leads outside": link,
    "only pickles": pickles,
}


@pytest.mark.parametrize("name", BASES)
def test_a_base_that_is_none(name: str, base: Path, recipe: Path, run: Run) -> None:
    BASES[name](base)
    line = one_line(run("apply", recipe))
    assert "base" in line
    assert not (recipe.parent / "out").exists()


class Innocent:
    """A class that torch does not hold for safe."""


def test_pickles_of_tensors_alone_are_read_and_others_name_their_classes(
    base: Path, recipe: Path, run: Run
) -> None:
    import torch
    from safetensors.torch import load_file

    state = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    torch.save(state, base / "pytorch_model.bin")
    assert run("apply", recipe).status == 0
    torch.save({**state, "extra": Innocent()}, base / "pytorch_model.bin")
    assert "Innocent" in one_line(run("apply", recipe, "--force"))


def test_weights_that_do_not_all_land(base: Path, recipe: Path, run: Run) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    assert "is missing" in one_line(run("apply", recipe))


def test_remote_code_needs_the_recipe_and_the_command_line(
    base: Path, recipe: Path, run: Run
) -> None:
    write_recipe(recipe, patient={"source": "hf", "path": "./base", "trust_remote_code": True})
    assert "--trust-remote-code" in one_line(run("plan", recipe))
    assert run("plan", recipe, "--trust-remote-code").status == 0


def test_a_read_only_target(recipe: Path, run: Run) -> None:
    locked = Path("/proc/nowhere")
    line = one_line(run("apply", recipe, "--output", locked))
    assert "/proc" in line


def test_the_second_of_two_applies_into_one_output_stops_at_once(recipe: Path, run: Run) -> None:
    with publish(recipe.parent / "out") as folder:
        (folder / "x").write_text("x")
        ran = run("apply", recipe)
        assert ran.status == 5
        assert "written by" in one_line(ran)
    assert (recipe.parent / "out" / "x").exists()


def start(recipe: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "surgery", "apply", str(recipe), "--force"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=hear_ctrl_c,
    )


def hear_ctrl_c() -> None:
    """Do not inherit that SIGINT is ignored, as what a shell starts in the background does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_control_c_ends_with_130_and_leaves_the_earlier_output(recipe: Path, run: Run) -> None:
    assert run("apply", recipe).status == 0
    before = tree(recipe.parent / "out")
    process = start(recipe)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("load"):
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "interrupted" in process.stderr.read()
    assert tree(recipe.parent / "out") == before
    assert run("apply", recipe, "--force").status == 0


@pytest.mark.slow
def test_killed_applies_leave_a_complete_output(recipe: Path, run: Run) -> None:
    import random

    import surgery

    assert run("apply", recipe).status == 0
    chance = random.Random(0)
    for _ in range(6):
        process = start(recipe)
        time.sleep(chance.uniform(0.5, 8.0))
        process.kill()
        process.wait()
        assert surgery.load(recipe.parent / "out").plan.added
    assert run("apply", recipe, "--force").status == 0
    assert not [p for p in recipe.parent.iterdir() if ".tmp" in p.name]
