"""Every page is run: here, or by a test of the piece that it is about."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import bases, kit
from tests.docs.kit import DOCS, ROOT, Reader

__all__ = ["folder"]
folder = kit.folder

QUICK = ("--set", "train.epochs=null", "--set", "train.steps=2", "--set", "train.batch=2",
         "--set", "train.micro=1", "--set", "train.log.trackers=[]")  # fmt: skip
HERE: dict[str, tuple[bases.Base, tuple[str, ...]]] = {
    "thinking.md": (bases.nothing, ()),
    "guides/ship.md": (bases.llm, ()),
    "guides/vlm.md": (bases.llava, ()),
    "coming-from/peft.md": (bases.base, ()),
    "coming-from/torchtune.md": (bases.llm, ()),
    "coming-from/axolotl.md": (bases.llm, ()),
    "peft.md": (bases.adapter, ()),
    "lean.md": (bases.llm, QUICK),
}
SLOW: dict[str, tuple[bases.Base, tuple[str, ...]]] = {
    "start.md": (bases.nothing, ()),
    "plugins.md": (bases.base, ()),
    "coming-from/mergekit.md": (bases.eight_layers, ()),
    "guides/llm.md": (bases.llm, ()),
    "guides/sam2-lora.md": (bases.sam2, QUICK),
    "guides/sam3-head.md": (bases.sam3, QUICK),
}
ELSEWHERE = {
    "guides/resume.md": "tests/docs/test_guides.py",
    "guides/several-gpus.md": "tests/docs/test_guides.py",
}


def read(name: str, page: tuple[bases.Base, tuple[str, ...]], folder: Path) -> Reader:
    prepare, more = page
    prepare(folder)
    reader = Reader(more)
    reader.read(name)
    return reader


@pytest.mark.parametrize("name", HERE)
def test_the_page_runs(name: str, folder: Path) -> None:
    reader = read(name, HERE[name], folder)
    if name != "thinking.md":
        reader.fine()


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_the_page_that_takes_longer_runs(name: str, folder: Path) -> None:
    """Run it in a process of its own, as a reader does."""
    code = "import sys; from pathlib import Path; from tests.docs.test_pages import SLOW, read; "
    code += "read(sys.argv[1], SLOW[sys.argv[1]], Path.cwd()).fine()"
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-c", code, name], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path}, timeout=290, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]


def naming(name: str) -> list[Path]:
    stem = re.escape(Path(name).stem)
    said = re.compile(rf'\b{stem}\.md"|(?:page|blocks)\("{stem}"')
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    return [path for path in files if said.search(path.read_text("utf-8"))]


@pytest.mark.parametrize("name", kit.every_page())
def test_what_a_page_says_is_run_by_some_test(name: str) -> None:
    runs = any(block.language in kit.RUN for block in kit.blocks(name))
    if not runs or name in HERE or name in SLOW or Path(name).parts[0] == "errors":
        return
    if name in ELSEWHERE:
        assert Path(name).name in (ROOT / ELSEWHERE[name]).read_text("utf-8")
        return
    assert naming(name), f"no test runs docs/{name}: add it to HERE in {__file__}"


def test_blocks_that_only_show_something_are_few() -> None:
    """Count consoles, and texts that no block before them printed."""
    shown = [block for name in kit.every_page() for block in kit.blocks(name)]
    assert sum(block.language == "console" for block in shown) <= 8
    languages = {block.language for block in shown}
    assert languages <= {*kit.RUN, "console", "text"}


def test_every_fence_is_read_as_a_block() -> None:
    for name in kit.every_page():
        fences = len(re.findall(r"^\s*(```|~~~)", (DOCS / name).read_text("utf-8"), re.M))
        assert fences == 2 * len(kit.blocks(name)), name
