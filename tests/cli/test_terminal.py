"""What a person sees on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig

import surgery.errors

RECIPE = """
recipe: 1
patient: {source: hf, path: ./base}
surgeries: [{use: lora, at: {role: attention.q}, with: {rank: 2}}]
"""
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(folder: Path, *arguments: str, **environment: str) -> str:
    """Run the command with a terminal of 200 columns on stdout, and give all that it sent there."""
    core = Path(surgery.errors.__file__).parents[1]
    search = [str(core), *(str(core.parent / name) for name in ("plugins", "recipes"))]
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "CI")}
    paths = os.pathsep.join([*search, os.environ.get("PYTHONPATH", "")])
    set_here = {"PYTHONPATH": paths, "TERM": "xterm-256color", "COLUMNS": "200", **environment}
    above, below = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "surgery", *arguments],
        cwd=folder, env={**plain, **set_here}, stdin=below, stdout=below, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(below)
    shown = _everything(above)
    assert process.wait(timeout=60) == 0
    return shown


def _everything(end: int) -> str:
    found = b""
    with os.fdopen(end, "rb", buffering=0) as stream:
        while True:
            try:
                part = stream.read(65536)
            except OSError:  # the other end was closed
                break
            if not part:
                break
            found += part
    return found.decode()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, architectures=["LlamaForCausalLM"],
    ).save_pretrained(tmp_path / "base")  # fmt: skip
    return tmp_path


def test_roles_are_coloured_and_no_escape_is_shown_as_text(model: Path) -> None:
    shown = on_a_terminal(model, "inspect", "base")
    assert "\x1b[36mattention.q" in shown
    assert "\x1b[35mmlp.up" in shown
    assert "\x1b[33mnorm" in shown
    assert "\\x1b" not in shown
    assert "\x1b" not in _STYLE.sub("", shown)
    assert "q_proj Linear [16, 16] 256 parameters attention.q (trace)" in _STYLE.sub("", shown)


def test_a_plan_shows_no_escape_as_text(model: Path) -> None:
    (model / "r.yaml").write_text(RECIPE)
    shown = on_a_terminal(model, "plan", "r.yaml")
    assert "\\x1b" not in shown
    assert "2 sites" in _STYLE.sub("", shown)


def test_no_color_means_none(model: Path) -> None:
    shown = on_a_terminal(model, "inspect", "base", NO_COLOR="1")
    assert "attention.q" in shown
    assert not re.search(r"\x1b\[[0-9;]*[349][0-7]", shown)
