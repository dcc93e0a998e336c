"""The page on vision-language models is run: its recipes, commands, code and messages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from surgery.cli import main
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe
from surgery.recipe.shipped import shipped
from surgery_plugins.data.image_text import ImageText
from surgery_plugins.sources.hf import HfSource
from tests.cases import test_case_003 as case
from tests.pseudo_gumbel import kit

PAGE = (Path(__file__).parents[2] / "docs" / "training-vlm.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.S | re.M)


def block(kind: str) -> str:
    (text,) = [text for found, text in BLOCKS if found == kind]
    return str(text)


def test_the_recipes_of_the_page_are_shipped() -> None:
    named = re.findall(r"^\| `([\w-]+)` \|", PAGE, re.M)
    assert named == ["vlm-resampler", "sa2va-pseudo-gumbel"]
    assert set(named) <= set(shipped())


def test_the_settings_of_the_page_are_read() -> None:
    head = "recipe: 1\npatient: {source: hf, path: ./x}\nsurgeries: [{use: freeze}]\n"
    tail = "  steps: 1\noutput: {path: ./y}\n"
    recipe = read_recipe(head + block("yaml") + tail, registry=registry())
    assert recipe.train is not None
    assert recipe.train.objective.name == "causal-lm"


def test_the_line_of_the_page_is_a_sample(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(block("json"))
    Image.new("RGB", (8, 6)).save(tmp_path / "0001.jpg")
    samples = ImageText(path=str(tmp_path / "x.jsonl"), folder=str(tmp_path)).open()
    assert samples[0]["image"].shape == (6, 8, 3)
    assert samples[0]["answer"] == "left"


def test_the_message_of_the_page_is_the_one_that_is_given() -> None:
    assert str(case.LOOK.refuse(case.llava(slots=36))).startswith(block("text").strip())


def test_the_code_of_the_page_joins_two_folders(tmp_path: Path) -> None:
    words = kit.tokenizer("[SEG]")
    kit.internvl(words).save_pretrained(tmp_path / "vlm")
    kit.sam2().save_pretrained(tmp_path / "sam")
    names: dict[str, object] = {}
    exec(compile(block("python"), "docs/training-vlm.md", "exec"), names)
    names["join"](str(tmp_path / "vlm"), str(tmp_path / "sam"), str(tmp_path / "both"))  # type: ignore[operator]
    words.save_pretrained(tmp_path / "both")
    owner = HfSource(path=str(tmp_path / "both")).load()
    owner.model.requires_grad_(True)
    assert kit.objective().refuse(owner) is None


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case.shipped(tmp_path)
    (tmp_path / "vlm-resampler.yaml").unlink()
    monkeypatch.chdir(tmp_path)
    sets = {"train.epochs": None, "train.steps": 2, "train.batch": 4, "train.micro": 2,
            "train.log.trackers": [], "train.objective.image": {"key": "image", **case.COLOURS},
            "train.precision": "float32"}  # fmt: skip
    quick = [part for k, v in sets.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    for line in block("sh").strip().splitlines():
        options = [] if "copy" in line else quick
        assert main([*line.split()[1:], *options]) == 0, line
    assert (tmp_path / "llava-resampler").is_dir()
