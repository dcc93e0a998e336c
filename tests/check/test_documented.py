"""The page is run: its recipe, its commands, its program, and what they print."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from surgery.cli import main
from tests.families.meta_sam2 import meta_sam2
from tests.rope.kit import transformers

TEXT = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.S | re.M)
SHELL = [text.strip() for language, text in BLOCKS if language == "sh"]
PRINTED = [text for language, text in BLOCKS if language == "text"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipe, and the configuration of the published model without weights."""
    config = transformers.Sam3Config()
    config.architectures = ["Sam3Model"]
    config.save_pretrained(tmp_path / "sam3")
    (recipe,) = [text for language, text in BLOCKS if language == "yaml"]
    (tmp_path / "recipe.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(command: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        status = main(command.split()[1:])
    return status, out.getvalue()


def test_there_are_blocks_to_run() -> None:
    assert (len(SHELL), len(PRINTED)) == (3, 2)


def test_1024_pixels_print_what_the_page_says_without_weights(folder: Path) -> None:
    assert not list(folder.rglob("*.safetensors"))
    status, out = ran(SHELL[0])
    assert status == 1
    (shown,) = [text for text in PRINTED if "1008" in text]
    assert out == shown


@pytest.mark.slow
def test_as_many_patches_in_another_shape_run_and_fail(folder: Path) -> None:
    status, out = ran(SHELL[1])
    found: Any = json.loads(out)
    assert (status, found["ok"], found["counts"]["failed"]) == (1, False, 1)
    assert [c["status"] for c in found["checks"]] == ["failed", "passed"]
    assert "48 x 108 patches" in found["violations"][0]["found"]


@pytest.mark.slow
def test_the_models_own_size_passes_strictly(folder: Path) -> None:
    status, out = ran(SHELL[2])
    assert (status, out.splitlines()[-1]) == (0, "2 passed")


def test_the_program_prints_what_the_page_says() -> None:
    def build() -> Any:
        model = meta_sam2()
        model.sam_prompt_encoder.mask_input_size = (256, 256)
        return model

    (program,) = [text for language, text in BLOCKS if language == "python"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(program, "contracts.md", "exec"), {"build_sam2": build, "__name__": "page"})
    assert out.getvalue() == PRINTED[1]
