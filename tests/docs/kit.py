"""Run the blocks of a page in order, in one folder, as a reader would."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from surgery.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.S | re.M)
RUN = frozenset({"bash", "sh", "python", "yaml", "json"})
"""Languages of blocks that are run; others only show something."""


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        language: what stands after the fence.
        title: the file's name, if the block is a file.
        text: what it says.
    """

    language: str
    title: str
    text: str


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def blocks(name: str) -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(page(name))]


def every_page() -> list[str]:
    found = (path.relative_to(DOCS) for path in sorted(DOCS.rglob("*.md")))
    return [str(path) for path in found if path.parts[0] != "examples"]


@dataclass
class Reader:
    """Do what a page says.

    Attributes:
        more: what is added to each training, so that it takes seconds.
        names: what programs of the page have defined.
        said: what the last block printed.
        statuses: exit statuses of all commands.
    """

    more: tuple[str, ...] = ()
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    said: str = ""
    statuses: list[tuple[str, int]] = field(default_factory=list)

    def read(self, name: str) -> None:
        """Run a page; what a block of text shows must be what the block before it printed."""
        for block in blocks(name):
            if block.language == "text":
                assert self.said, f"{name}: nothing was run before {block.text!r}"
                assert flat(block.text) in flat(self.said), self.said
            elif block.language in RUN:
                self.run(block)

    def run(self, block: Block) -> None:
        if block.title or block.language in ("yaml", "json"):
            Path(block.title or "recipe.yaml").write_text(block.text)
            return
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            if block.language == "python":
                exec(compile(block.text, "page", "exec"), self.names)
            else:
                for line in lines(block.text):
                    self.statuses.append((line, self._command(line)))
        self.said = out.getvalue()

    def _command(self, line: str) -> int:
        program, *arguments = shlex.split(line)
        if program == "pytest":
            return int(pytest.main(["-s", "-p", "surgery_pytest", "--rootdir=.", *arguments]))
        assert program == "surgery", line
        training = arguments[0] == "train" or arguments[:2] == ["check", "--train"]
        try:
            return main([*arguments, *(self.more if training else ())])
        except SystemExit as ended:
            return int(ended.code or 0)

    def fine(self) -> None:
        assert self.statuses, "no command was run"
        assert all(not status for _, status in self.statuses), (self.statuses, self.said)


def lines(text: str) -> Iterator[str]:
    """Give the commands of a block, those over several lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def flat(text: str) -> str:
    """Give text with any white space as one blank, as messages are wrapped."""
    return " ".join(text.split())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path
