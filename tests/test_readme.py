"""What the README says is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from surgery.recipe.read import read_recipe
from surgery_plugins.sources.demo import PACKAGE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.S | re.M)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_two_commands_stand_where_ci_looks_for_them() -> None:
    for heading, words in (("## Run it", "surgery apply quickstart"), ("## Test it", "pytest")):
        after = README.split(heading)[1]
        first = re.search(r"^```bash\n(.*?)^```", after, re.S | re.M)
        assert first is not None
        assert words in first[1]
        assert first[1].count("\n") == 1


def test_there_are_blocks_to_run() -> None:
    assert (len(blocks("bash")), len(blocks("python")), len(blocks("yaml"))) == (6, 2, 1)


@pytest.mark.slow
@pytest.mark.demo
@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the MiniLM package is not installed")
def test_the_tour_runs_as_it_stands(tmp_path: Path) -> None:
    for text in blocks("bash")[2:]:
        for line in text.strip().splitlines():
            assert run([sys.executable, "-m", *line.split()], tmp_path)
    assert (tmp_path / "mine" / "surgery.json").is_file()
    tour, plugin = blocks("python")
    shown = run([sys.executable, "-c", tour], tmp_path)
    assert "lora 12" in shown
    assert "3 sites" in shown
    (tmp_path / "plugin.py").write_text(plugin)
    listed = [sys.executable, "-m", "surgery", "plugins", "--plugin", "plugin.py"]
    assert "acme/only-norms" in run(listed, tmp_path)


def test_the_recipe_is_a_recipe() -> None:
    from surgery.hooks.registry import registry

    (text,) = blocks("yaml")
    recipe = read_recipe(text, registry=registry())
    assert [step.surgery.name for step in recipe.steps] == ["freeze", "lora"]
