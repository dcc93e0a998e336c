"""What the page on looking says is so: its commands and its code run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from surgery.cli import main
from surgery.cli.app import COMMANDS
from tests.stream.models import save

PAGE = (Path(__file__).parents[2] / "docs" / "looking.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.S | re.M)
RECIPE = """
recipe: 1
patient: {source: hf, path: ./base}
surgeries: [{use: freeze}, {use: lora, at: {role: attention.q}, with: {rank: 2}}]
output: {path: ./out}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save("llama", tmp_path / "base", False)
    Path("r.yaml").write_text(RECIPE)
    assert main(["apply", "r.yaml", "--quiet"]) == 0
    return tmp_path


def test_the_commands_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
    assert len(lines) >= 9
    for line in lines:
        capsys.readouterr()
        assert main(shlex.split(line)[1:]) == 0, line
        assert capsys.readouterr().out.strip(), line


def test_the_code_runs(folder: Path) -> None:
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    names: dict[str, object] = {}
    exec(compile(code, "looking.md", "exec"), names)
    assert "attention.q" in str(names["html"])


def test_every_command_that_is_named_is_there() -> None:
    named = set(re.findall(r"`surgery ([a-z]+)", PAGE))
    assert named <= set(COMMANDS)
    assert {"inspect", "report", "completion"} <= named
