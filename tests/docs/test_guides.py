"""Guides whose commands are about processes: stopped, resumed, launched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from surgery.recipe.shipped import copy_shipped
from tests.docs import bases, kit
from tests.docs.kit import Reader, blocks

__all__ = ["folder"]
folder = kit.folder


def test_the_commands_of_several_gpus_print_what_the_page_says(folder: Path) -> None:
    bases.llm(folder)
    copy_shipped("llm-lora", folder)
    reader = Reader()
    reader.read("guides/several-gpus.md")
    reader.fine()
    assert len(reader.statuses) == 4


def started(line: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(kit.ROOT)}
    return subprocess.Popen([sys.executable, "-m", *line.split()], env=environment)


def steps_done(run: Path) -> int:
    file = run / "metrics.jsonl"
    found = re.findall(r'"step": (\d+),', file.read_text()) if file.is_file() else []
    return max(map(int, found), default=0)


@pytest.mark.slow
def test_the_run_of_resume_is_killed_and_goes_on_as_the_page_says(folder: Path) -> None:
    (recipe,) = (block for block in blocks("guides/resume.md") if block.language == "yaml")
    train, resume = (
        block.text.strip() for block in blocks("guides/resume.md") if block.language == "sh"
    )
    found = []
    for name in ("whole", "killed"):
        (folder / name).mkdir()
        os.chdir(folder / name)
        bases.llm(folder / name)
        Path(recipe.title).write_text(recipe.text)
        process = started(train)
        while name == "killed" and process.poll() is None and steps_done(Path("tuned-run")) < 5:
            time.sleep(0.02)
        if name == "killed":
            process.kill()
            assert process.wait() != 0
            assert not Path("tuned").exists()
            process = started(resume)
        assert process.wait(120) == 0
        found.append(load_file("tuned/changed.safetensors"))
    assert found[0].keys() == found[1].keys()
    assert all(bool((found[0][key] == found[1][key]).all()) for key in found[0])
