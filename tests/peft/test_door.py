"""From PEFT to a checkpoint and back again, by the command line alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import surgery
from surgery.cli import main
from tests.peft import kit
from tests.peft.kit import TOLERANCE, answer, difference, fresh, in_peft, saved_by_peft

pytestmark = pytest.mark.filterwarnings("ignore")

MANY: dict[str, Any] = {
    "target_modules": ["q_proj", "embed_tokens"],
    "use_rslora": True,
    "lora_dropout": 0.1,
    "modules_to_save": ["lm_head"],
}


def saved_base(folder: Path) -> Path:
    fresh(kit.llama).save_pretrained(folder)  # type: ignore[operator]
    return folder


def call(*arguments: object) -> int:
    return main([str(one) for one in arguments])


def test_an_adapter_becomes_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = saved_base(tmp_path / "base")
    _, theirs = saved_by_peft(kit.llama, tmp_path / "adapter", **MANY)
    out = tmp_path / "out"
    given = ("import", "peft", tmp_path / "adapter", "--base", base, "--output", out)
    assert call(*given) == 0
    assert "written to" in capsys.readouterr().out
    assert difference(answer(surgery.load(out).model), answer(theirs)) <= TOLERANCE
    assert call("verify", out) == 0
    assert call(*given) != 0, "an output that exists is kept"
    assert call(*given, "--force", "--quiet") == 0


def test_several_adapters_become_one_checkpoint(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base")
    for name, module in (("one", "q_proj"), ("two", "up_proj")):
        saved_by_peft(kit.llama, tmp_path / name, target_modules=[module])
    both = (tmp_path / "one", tmp_path / "two")
    assert call("import", "peft", *both, "--base", base, "--output", tmp_path / "out") == 0
    journal = json.loads((tmp_path / "out" / "surgery.json").read_text())
    names = [step["options"]["adapter"] for step in journal["steps"] if step["use"] == "lora"]
    assert names == ["one", "two"]


def test_what_does_not_fit_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = saved_base(tmp_path / "base")
    saved_by_peft(lambda: kit.llama(hidden_size=32), tmp_path / "adapter", **MANY)
    given = ("import", "peft", tmp_path / "adapter", "--base", base, "--output", tmp_path / "out")
    assert call(*given, "--json") == 1
    answered = json.loads(capsys.readouterr().out)
    assert answered["ok"] is False
    assert "is this the adapter's base?" in {error["instead"] for error in answered["errors"]}
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_suggests_the_known_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = saved_base(tmp_path / "base")
    assert call("import", "pfet", tmp_path, "--base", base, "--output", tmp_path / "out") == 1
    assert "did you mean 'peft'?" in capsys.readouterr().err


def test_a_recipe_writes_an_adapter_beside_its_checkpoint(tmp_path: Path) -> None:
    saved_base(tmp_path / "base")
    recipe = {
        "recipe": 1,
        "patient": {"source": "hf", "path": "./base"},
        "surgeries": [
            {"use": "freeze"},
            {"use": "lora", "at": {"role": "attention.q"}, "with": {"init": "pissa", "rank": 2}},
            {"use": "unfreeze", "at": {"path": "lm_head"}},
        ],
        "output": {"path": "./out", "also": ["peft"]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert call("apply", tmp_path / "recipe.yaml", "--quiet") == 0
    ours = surgery.load(tmp_path / "out").model
    theirs = in_peft(fresh(kit.llama), tmp_path / "out" / "peft")
    assert difference(answer(theirs), answer(ours)) <= TOLERANCE
    assert (
        "lm_head"
        in json.loads((tmp_path / "out/peft/adapter_config.json").read_text())["modules_to_save"]
    )


@pytest.mark.parametrize(
    "step",
    [
        {"use": "lora", "at": {"role": "attention.q"}, "with": {"init": "pissa"}},
        {"use": "unfreeze", "at": {"path": "lm_head"}},
    ],
)
def test_what_needs_the_base_in_memory_says_so_file_by_file(
    step: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_base(tmp_path / "base")
    recipe = {
        "recipe": 1,
        "patient": {"source": "hf", "path": "./base"},
        "surgeries": [{"use": "freeze"}, {"use": "lora", "at": {"role": "mlp.up"}}, step],
        "output": {"path": "./out", "also": ["peft"]},
    }
    if step["use"] == "lora":
        recipe["surgeries"] = [{"use": "freeze"}, step]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert call("apply", tmp_path / "recipe.yaml", "--stream") == 1
    assert "--live" in capsys.readouterr().err
    assert call("apply", tmp_path / "recipe.yaml", "--live") == 0


def test_a_recipe_that_no_adapter_can_carry_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_base(tmp_path / "base")
    recipe = {
        "recipe": 1,
        "patient": {"source": "hf", "path": "./base"},
        "surgeries": [
            {"use": "freeze"},
            {"use": "lora", "at": {"role": "attention.q"}},
            {"use": "unfreeze", "at": {"role": "attention.q"}, "overlap": True},
        ],
        "output": {"path": "./out", "also": ["peft"]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert call("apply", tmp_path / "recipe.yaml", "--quiet") == 1
    assert "a training that PEFT can express" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_training_after_an_import_is_kept(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base")
    saved_by_peft(kit.llama, tmp_path / "adapter", **MANY)
    given = ("import", "peft", tmp_path / "adapter", "--base", base, "--output", tmp_path / "out")
    assert call(*given) == 0
    loaded = surgery.load(tmp_path / "out")
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter += 0.01
    loaded.save(tmp_path / "trained")
    again = surgery.load(tmp_path / "trained", base=base)
    assert torch.equal(answer(again.model), answer(loaded.model))
