"""The page on SAM is run: its commands, and what they say."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

import surgery
from surgery.cli import main
from surgery.recipe.shipped import shipped
from tests.rope import kit as models
from tests.segmentation import kit

PAGE = (Path(__file__).parents[2] / "docs" / "training-sam.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.S | re.M)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.strip().splitlines()]
QUICK = {
    "train.epochs": None, "train.steps": 2, "train.batch": 2, "train.micro": 1,
    "train.log.trackers": [],
}  # fmt: skip


def ran(line: str, *, quick: bool) -> tuple[int, str]:
    """Run a command of the page; trainings get settings for a second."""
    out = io.StringIO()
    sets = [part for k, v in QUICK.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main([*line.split()[1:], *(sets if quick else [])])
        except SystemExit as ended:
            status = int(ended.code or 0)
    return status, out.getvalue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    kit.sam2(128).save_pretrained(tmp_path / "sam2")
    models.sam3().save_pretrained(tmp_path / "sam3")
    kit.tokenizer().save_pretrained(tmp_path / "sam3")
    for name in ("train", "held-out"):
        kit.folders(tmp_path / name, 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_recipes_of_the_page_are_shipped() -> None:
    named = re.findall(r"^\| `(sam[\w-]+)` \|", PAGE, re.M)
    assert len(named) == 3
    assert set(named) <= set(shipped())


def test_the_points_of_the_page_are_those_of_the_report() -> None:
    from surgery.training.preflight import FORWARD, FROZEN, LOADS, MEMORY

    assert re.findall(r"^\| `([a-z ]+)` \|", PAGE, re.M) == [LOADS, FORWARD, MEMORY, FROZEN]


@pytest.mark.slow
def test_the_commands_of_the_page_run(folder: Path) -> None:
    copy, check, train, _ = COMMANDS
    assert ran(copy, quick=False)[0] == 0
    status, told = ran(check, quick=True)
    assert status == 0, told
    assert "4 passed, 2 warned" in told
    assert not (folder / "sam2-lora-run").exists()
    status, told = ran(train, quick=True)
    assert status == 0, told
    assert len(surgery.load(folder / "sam2-lora").plan.trainable) == 20


def test_another_size_ends_with_what_the_page_says(folder: Path) -> None:
    assert ran("surgery recipes copy sam3-lora", quick=False)[0] == 0
    status, told = ran(COMMANDS[3], quick=True)
    assert status == 1
    (message,) = [text for kind, text in BLOCKS if kind == "text" and "inputs." in text]
    assert " ".join(message.split()) in " ".join(told.split())
