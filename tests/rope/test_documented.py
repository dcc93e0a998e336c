"""What the page and the shipped recipes say is run, on small models of the same kind."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from tests.rope import kit

TEXT = (Path(__file__).parents[2] / "docs" / "vision-tables.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.S | re.M)


def vit() -> Any:
    return kit.vit(image_size=64, patch_size=16, id2label={0: "owl", 1: "cat"}, label2id={})


BASES: dict[str, Callable[[], Any]] = {
    "sam3": kit.sam3_tracker,
    "llm": lambda: kit.llama(max_position_embeddings=1024),
    "base": kit.qwen2,
    "vit": vit,
}
IMAGES = {"vit-384": (3, 384), "vit-patch32": (4, 64), "vit-labels": (3, 64)}


def folder_with_bases(folder: Path) -> Path:
    for name, build in BASES.items():
        build().save_pretrained(folder / name)
    return folder


def check(out: Path) -> Any:
    loaded = surgery.load(out).model
    if out.name in IMAGES:
        channels, side = IMAGES[out.name]
        answer = loaded(torch.zeros(1, channels, side, side)).logits
        assert answer.shape == (1, len(loaded.config.id2label))
    if out.name != "llm-context":  # LoRA adds what no configuration speaks of
        kit.assert_as_fresh(loaded)
    return loaded


def test_there_are_blocks_to_run() -> None:
    assert [language for language, _ in BLOCKS].count("yaml") == 5
    assert [language for language, _ in BLOCKS].count("python") == 1


def test_every_recipe_of_the_page_runs(tmp_path: Path) -> None:
    folder_with_bases(tmp_path)
    for number, text in enumerate(text for language, text in BLOCKS if language == "yaml"):
        recipe = tmp_path / f"{number}.yaml"
        recipe.write_text(text)
        out = re.search(r"output: \{path: \./([\w-]+)\}", text)
        assert out is not None
        kit.run("apply", recipe, "--quiet")
        check(tmp_path / out[1])


def test_every_program_of_the_page_runs() -> None:
    out = io.StringIO()
    for _, text in (block for block in BLOCKS if block[0] == "python"):
        with contextlib.redirect_stdout(out):
            exec(compile(text, "vision-tables.md", "exec"), {"__name__": "page"})
    assert out.getvalue().split("\n") == ["(1, 20, 8)", "(1, 9, 8)", ""]


@pytest.mark.parametrize(
    ("recipe", "out"),
    [
        ("llm-context", "llm-context"), ("sam3-image-size", "sam3-672"),
        ("vit-image-size", "vit-384"), ("vit-patches", "vit-patch32"),
        ("vit-labels", "vit-labels"),
    ],
)  # fmt: skip
def test_every_shipped_recipe_runs(
    recipe: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder_with_bases(tmp_path))
    kit.run("plan", recipe)
    kit.run("apply", recipe, "--quiet")
    loaded = check(tmp_path / out)
    if recipe == "vit-labels":
        old = vit().classifier.weight
        assert torch.equal(loaded.classifier.weight[[0, 2]], old[[1, 0]])
        assert [n for n, p in loaded.named_parameters() if p.requires_grad] == [
            "classifier.weight", "classifier.bias",
        ]  # fmt: skip
    if recipe == "llm-context":
        assert loaded.config.max_position_embeddings == 256
        assert loaded.config.rope_parameters["rope_type"] == "yarn"
