"""Every command of docs/adopt.md runs, in order, in one folder."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest

from tests.adopt.kit import saved
from tests.adopt.test_adapters import OPTIONS, tuned
from tests.adopt.test_adopt import Tensors, lightning
from tests.command import Ran

PAGE = Path(__file__).parents[2] / "docs" / "adopt.md"


def test_every_command_of_the_page_runs(
    run: Callable[..., Ran],
    base: Path,
    state: Tensors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    copytree(base, "base")
    config = json.loads((base / "config.json").read_text())
    Path("other").mkdir()
    Path("other/config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    saved(tmp_path / "last.ckpt", lightning({f"net.{n}": t for n, t in state.items()}))
    saved(tmp_path / "tuned.ckpt", tuned(base, **OPTIONS[0]).state_dict())
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "surgery"
        done = run(*arguments)
        assert done.status == 0, (line, done.err)
