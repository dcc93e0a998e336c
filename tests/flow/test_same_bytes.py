"""Law: the same recipe gives the same bytes in every file, however and wherever it is applied."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import surgery
from tests.command import Ran
from tests.flow.conftest import write_recipe

Run = Callable[..., Ran]
STEPS = [
    {"use": "freeze"},
    {"use": "lora", "at": {"role": "attention.q"}, "with": {"rank": 2, "init": "pissa"}},
    {"use": "lora", "at": {"role": "attention.v"}, "with": {"rank": 2, "adapter": "second"}},
]  # fmt: skip
ALWAYS = {"README.md", "recipe.yaml", "surgery.json", "surgery.manifest.json"}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def twice(recipe: Path, run: Run) -> Callable[..., None]:
    """Apply the recipe plainly, and once more in another way; all files must be equal."""

    def check(save: str, *how: str) -> None:
        write_recipe(recipe, surgeries=STEPS, output={"path": "./out", "save": save})
        for name, given in (("one", ()), ("other", how)):
            ran = run("apply", recipe, "--output", recipe.parent / name, *given)
            assert ran.status == 0, ran.err
        one, other = tree(recipe.parent / "one"), tree(recipe.parent / "other")
        assert one.keys() >= ALWAYS
        assert one == other

    return check


def ways() -> Iterator[Any]:
    """Every way of each kind of output; three of them run by default."""
    quick = {("full", 1), ("full", 3), ("changed", 0)}
    for number, how in enumerate(
        (
            "--live",
            "--stream",
            "--stream --executor threads:1",
            "--stream --executor threads:4 --memory 20KB",
            "--stream --executor processes:2",
            "--no-links",
        )
    ):
        for save in ("changed", "full"):
            mark = () if (save, number) in quick else pytest.mark.slow
            yield pytest.param(save, how.split(), marks=mark, id=f"{save} {how}")


@pytest.mark.parametrize(("save", "how"), list(ways()))
def test_ways_and_workers_make_no_difference(
    twice: Callable[..., None], save: str, how: list[str]
) -> None:
    twice(save, *how)


def test_where_a_recipe_lies_and_is_run_makes_no_difference(
    recipe: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("apply", recipe).status == 0
    there = recipe.parent / "elsewhere" / "deep"
    there.mkdir(parents=True)
    write_recipe(there / "other.yaml", patient={"source": "hf", "path": "../../base"})
    monkeypatch.chdir(there)
    assert run("apply", "other.yaml").status == 0
    assert tree(there / "out") == tree(recipe.parent / "out")


def test_processes_and_hash_seeds_make_no_difference(recipe: Path, run: Run) -> None:
    write_recipe(recipe, surgeries=STEPS)
    assert run("apply", recipe).status == 0
    core = Path(surgery.__file__).parents[1]
    paths = [str(core), *(str(core.parent / name) for name in ("plugins", "recipes"))]
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-m", "surgery", "apply", str(recipe), "--output", "again"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": seed},
        cwd=recipe.parent, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert tree(recipe.parent / "again") == tree(recipe.parent / "out")


def test_replacing_an_output_with_the_same_makes_no_difference(recipe: Path, run: Run) -> None:
    assert run("apply", recipe).status == 0
    before = tree(recipe.parent / "out")
    assert run("apply", recipe, "--force").status == 0
    assert tree(recipe.parent / "out") == before
