"""Laws of crashes behind URLs: a folder without the mark is complete, whatever the moment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from signal import SIGKILL

import pytest

from surgery.checkpoint.fetch import UNFINISHED
from surgery.cli import main
from tests.remote.kit import LORA, here, recipe
from tests.stream.models import save

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL and audit events of files")


@pytest.mark.slow
def test_a_command_that_is_killed_leaves_nothing_a_marked_folder_or_all(tmp_path: Path) -> None:
    base, out, done = save("llama", tmp_path / "base", True), tmp_path / "out", tmp_path / "done"
    given = ["apply", str(recipe(tmp_path, f"local://{base}", "./unused", LORA)), "--output"]
    asked = {
        "commands": [{
            "measured": [*given, f"local://{done}"], "killed": [*given, f"local://{out}"],
            "warm": f"local://{tmp_path}/warm",
        }],
        "moments": 40, "signal": SIGKILL, "seed": 0, "base": str(base),
    }  # fmt: skip
    seen = {"nothing": 0, "marked": 0, "complete": 0}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.stream.killing", json.dumps(asked)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "COUNT": str(tmp_path / "count"), "OMP_NUM_THREADS": "1"},
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        for line in child.stdout:
            assert json.loads(line)["status"] in (0, -SIGKILL)
            kind = state_of(out, done)
            seen[kind] += 1
            if kind == "complete":
                shutil.rmtree(out)
            child.stdin.write("\n")
            child.stdin.flush()
    assert child.returncode == 0
    assert sum(seen.values()) == 40
    assert min(seen["nothing"], seen["complete"] + seen["marked"]) > 0, seen
    assert main([*given, f"local://{out}", "--quiet", "--force"]) == 0
    assert here(out) == here(done)


def state_of(out: Path, done: Path) -> str:
    """Say what stands there, and demand that it is whole where no mark stands."""
    found = here(out)
    if UNFINISHED in found:
        assert main(["verify", f"local://{out}", "--quiet"]) != 0
        return "marked"
    assert found in ({}, here(done))
    return "complete" if found else "nothing"
