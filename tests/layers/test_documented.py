"""What the page and the shipped recipes of structure say is run, on small models."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t

import surgery
from tests.layers import models
from tests.layers.models import made
from tests.rope import kit

TEXT = (Path(__file__).parents[2] / "docs" / "structure.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.S | re.M)
CLOSE = {"llm-fused", "llm-fuse", "phi-split", "phi-unfuse", "llm-swap", "llm-pro", "llm-depth"}


def llm() -> Any:
    return models.llama(num_hidden_layers=8)


def phi() -> Any:
    return t.Phi3ForCausalLM(t.Phi3Config(**models.TEXT))


BASES = {"llm": llm, "phi": phi}
LAYERS = {"llm-shallow": 5, "llm-deep": 12, "llm-pro": 12, "llm-depth": 12, "llm-prune": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("structure")
    for name, build in BASES.items():
        made(build).save_pretrained(folder / name)
    return folder


def check(out: Path) -> None:
    model = surgery.load(out).model
    base = made(BASES[out.name.partition("-")[0]])
    found, wanted = models.answers(model), models.answers(base)
    assert torch.allclose(found, wanted, atol=1e-5) == (out.name in CLOSE)
    assert len(model.model.layers) == LAYERS.get(out.name, len(base.model.layers))
    if out.name in ("llm-pro", "llm-depth"):
        trains = {name.split(".")[2] for name, p in model.named_parameters() if p.requires_grad}
        assert trains == {"2", "5", "8", "11"}


def test_every_recipe_of_the_page_runs(folder: Path) -> None:
    texts = [text for language, text in BLOCKS if language == "yaml"]
    assert len(texts) == 6
    for number, text in enumerate(texts):
        recipe = folder / f"{number}.yaml"
        recipe.write_text(text)
        out = re.search(r"output: \{path: \./([\w-]+)\}", text)
        assert out is not None
        kit.run("apply", recipe, "--quiet")
        check(folder / out[1])


def test_the_undo_of_the_page_gives_the_base(folder: Path, tmp_path: Path) -> None:
    recipe = BLOCKS[0][1].replace("./llm}", f"{folder}/llm}}").replace("./llm-sh", "./again-sh")
    (tmp_path / "1.yaml").write_text(recipe)
    kit.run("apply", tmp_path / "1.yaml", "--quiet")
    kit.run("undo", tmp_path / "again-shallow", "--into", tmp_path / "undone", "--quiet")
    model = t.LlamaForCausalLM.from_pretrained(tmp_path / "undone")
    base = made(llm)
    assert all(torch.equal(p, base.get_parameter(n)) for n, p in model.named_parameters())


def test_every_program_of_the_page_runs() -> None:
    out = io.StringIO()
    for _, text in (block for block in BLOCKS if block[0] == "python"):
        with contextlib.redirect_stdout(out):
            exec(compile(text, "structure.md", "exec"), {"__name__": "page"})
    assert out.getvalue().split("\n") == ["6 True", "4 True", ""]


RECIPES = {
    "llm-depth": "llm-depth", "llm-prune": "llm-prune", "llm-fuse": "llm-fuse",
    "llm-unfuse": "phi-unfuse", "llm-swap": "llm-swap",
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_shipped_recipe_runs(
    recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    kit.run("apply", recipe, "--quiet")
    check(folder / RECIPES[recipe])
    if recipe == "llm-prune":
        assert len(t.LlamaForCausalLM.from_pretrained(folder / recipe).model.layers) == 5
    if recipe == "llm-fuse":
        branches = [n for n, p in surgery.load(folder / recipe).model.named_parameters()
                    if p.requires_grad]  # fmt: skip
        assert {name.split(".")[4] for name in branches} == {"qkv_proj"}
