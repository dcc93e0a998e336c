"""What the pages on attaching, casting and state dicts say is run, and their shipped recipes."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.hooks.registry import registry
from surgery_plugins.surgeries.attach.kinds import BUILT_IN
from surgery_plugins.surgeries.tensors.surgery import TAKES
from tests.rope import kit as models
from tests.tensors import kit as states

DOCS = Path(__file__).parents[2] / "docs"


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text("utf-8")


def blocks(name: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w+)\n(.*?)^```", page(name), re.S | re.M)
    return [text for kind, text in found if kind == language]


def printed(text: str) -> list[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, "page", "exec"), {"__name__": "page"})
    return out.getvalue().splitlines()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def applied(folder: Path, text: str, out: str) -> Any:
    (folder / "recipe.yaml").write_text(text)
    models.run("apply", folder / "recipe.yaml", "--quiet")
    return surgery.load(folder / out)


def layers() -> dict[str, torch.Tensor]:
    found = {f"layers.{n}.{one}.weight": torch.full((2, 4), float(k))
             for n in range(2) for k, one in enumerate("qkv")}  # fmt: skip
    return found | {f"layers.{n}.norm.weight": torch.ones(4) for n in range(2)}


def test_the_page_on_attaching_is_true(here: Path) -> None:
    models.vit().save_pretrained("vit")
    (recipe,), (program,) = blocks("attach", "yaml"), blocks("attach", "python")
    model = applied(here, recipe, "vit-beside").model
    out = model(torch.zeros(2, 3, 32, 32))
    assert (tuple(out.view.shape), tuple(out.segment.shape)) == ((2, 4), (2, 1, 16, 16))
    assert printed(program) == [
        "('score.weight', 'score.bias')", "['score.weight', 'score.bias']",
    ]  # fmt: skip
    rows = re.findall(r"^\| `(\w+)` \|", page("attach"), re.M)
    assert sorted(rows) == sorted(kind.name for kind in BUILT_IN)
    assert set(rows) <= set(registry().names("attachment"))


def test_the_page_on_casting_is_true(here: Path) -> None:
    models.vit().save_pretrained("vit")
    (recipe, part), (program,) = blocks("cast", "yaml"), blocks("cast", "python")
    model = applied(here, part, "vit-layers-bfloat16").model
    assert model(torch.zeros(1, 3, 32, 32)).logits.dtype == torch.float32
    model = applied(here, recipe, "vit-bfloat16").model
    assert model.classifier.weight.dtype == torch.float32
    assert model.vit.layernorm.weight.dtype == torch.bfloat16
    assert printed(program) == ["torch.float32", "torch.bfloat16"]


def test_the_page_on_state_dicts_is_true(here: Path) -> None:
    states.write(here / "weights", 2, layers())
    (recipe,), (program,) = blocks("tensors", "yaml"), blocks("tensors", "python")
    (here / "fuse.yaml").write_text(recipe)
    for line in blocks("tensors", "sh")[0].splitlines():
        models.run(*line.split()[1:])
    assert eval(printed(program)[0]) == {
        "layers.0.norm.weight": (4,), "layers.0.qkv.weight": (6, 4),
        "layers.1.norm.weight": (4,), "layers.1.qkv.weight": (6, 4),
    }  # fmt: skip
    assert states.same(states.read(here / "weights-again"), layers())
    told = set(
        re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", page("tensors"), re.M)))
    )
    assert told - {"do"} == set(TAKES)


def test_the_recipe_for_a_language_model_runs(here: Path) -> None:
    models.llama().save_pretrained("llm")
    models.run("plan", "llm-bfloat16")
    models.run("apply", "llm-bfloat16", "--quiet", "--stream")
    model = surgery.load(here / "llm-bfloat16").model
    kinds = {n: p.dtype for n, p in model.named_parameters()}
    assert {n for n, kind in kinds.items() if kind == torch.float32} == {
        n for n in kinds if "norm" in n
    }
    assert model(torch.tensor([[1, 2, 3]])).logits.dtype == torch.bfloat16


def test_the_recipe_for_a_state_dict_runs(here: Path) -> None:
    old = {f"layers.{n}.attn.{one}.{kind}": torch.randn((2, 4) if kind == "weight" else (2,))
           for n in range(11) for one in "qkv" for kind in ("weight", "bias")}  # fmt: skip
    states.write(here / "weights", 3, old)
    models.run("apply", "state-dict-rename", "--quiet")
    found = states.read(here / "renamed")
    assert len(found) == 22
    for n in range(11):
        fused = torch.cat([old[f"layers.{n}.attn.{one}.weight"] for one in "qkv"])
        assert torch.equal(found[f"encoder.layers.{n}.attn.qkv.weight"], fused)
