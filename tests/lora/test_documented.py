"""What docs/lora.md says is run, block after block, beside a small model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from surgery.cli import main
from surgery.hooks.registry import registry
from surgery_plugins.surgeries.lora import Lora, LoraCombine
from surgery_plugins.surgeries.lora.initialisers.choice import BUILT_IN
from tests.flow.conftest import base, saved_base

__all__ = ["base", "saved_base"]

DOCS = (Path(__file__).parents[2] / "docs" / "lora.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", DOCS, re.S | re.M)


def run(language: str, text: str, names: dict[str, Any]) -> None:
    if language == "yaml":
        Path("recipe.yaml").write_text(text)
    elif language == "bash":
        for line in text.strip().splitlines():
            program, *arguments = line.split()
            assert program == "surgery"
            assert main(arguments) == 0, line
    elif found := re.match(r"# file: (\S+)\n", text):
        Path(found[1]).write_text(text)
    else:
        exec(compile(text, "docs/lora.md", "exec"), names)


def test_every_block_runs(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(base.parent)
    names: dict[str, Any] = {}
    for language, text in BLOCKS:
        run(language, text, names)
    assert {language for language, _ in BLOCKS} == {"yaml", "bash", "python"}
    assert len(BLOCKS) == 12
    assert "('law', 'code')" in capsys.readouterr().out
    assert names["answer"].shape == names["base_answer"].shape


def test_every_option_and_initialiser_is_explained() -> None:
    for name in (*Lora.model_fields, *LoraCombine.model_fields, *BUILT_IN):
        assert f"`{name}" in DOCS or f"{name}:" in DOCS, name


def test_every_method_of_combining_is_explained() -> None:
    for name in LoraCombine.model_json_schema()["properties"]["how"]["enum"]:
        assert f"`{name}`" in DOCS, name


def test_the_schema_lists_what_this_distribution_offers() -> None:
    own = {o.name for o in registry().offers if o.kind == "initialiser" and "/" not in o.name}
    assert own == set(BUILT_IN)
