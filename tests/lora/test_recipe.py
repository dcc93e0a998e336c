"""Initialisers and combinations in recipes: planned on meta, proved, saved, loaded, undone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import surgery
from surgery.flow import run as how
from surgery.flow.recipe import apply_recipe
from surgery.flow.write import Engine
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe
from tests.command import Ran
from tests.flow.conftest import base, recipe, saved_base, write_recipe

Run = Callable[..., Ran]
__all__ = ["base", "recipe", "saved_base"]

IDS = torch.tensor([[1, 5, 9, 3]])


def lora(init: Any, **more: Any) -> dict[str, Any]:
    options = {"rank": 2, "init": init, **more}
    return {"use": "lora", "at": {"role": ["attention.q", "mlp.down"]}, "with": options}


def checks(ran: Ran) -> dict[str, str]:
    assert ran.status == 0, ran.err
    return {check["name"]: check["status"] for check in ran.json["checks"]}


@pytest.mark.parametrize("init", ["pissa", "olora", "orthogonal", "gaussian"])
@pytest.mark.parametrize("dora", [False, True])
def test_identity_is_proved_up_to_rounding(
    init: str, dora: bool, recipe: Path, base: Path, run: Run
) -> None:
    write_recipe(recipe, surgeries=[{"use": "freeze"}, lora(init, dora=dora)])
    assert checks(run("apply", recipe, "--json"))["identity at init"] == "passed"
    model = surgery.load(recipe.parent / "out").model.eval()
    plain: Any = surgery.load(recipe.parent / "out")
    plain.undo()
    with torch.no_grad():
        gap = model(IDS).logits - plain.model.eval()(IDS).logits
    assert gap.abs().max() < 1e-5


def test_a_changed_base_is_no_identity_and_says_so(recipe: Path, run: Run) -> None:
    write_recipe(recipe, surgeries=[lora("loftq")])
    ran = run("apply", recipe, "--json")
    assert checks(ran)["identity at init"] == "skipped"


def test_samples_lie_beside_the_recipe(recipe: Path, run: Run) -> None:
    ids = torch.randint(0, 64, (8, 6), generator=torch.Generator().manual_seed(0))
    samples = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    save_file(samples, recipe.parent / "samples.safetensors")
    write_recipe(recipe, surgeries=[lora({"use": "eva", "data": "./samples.safetensors"})])
    assert checks(run("apply", recipe, "--json"))["identity at init"] == "passed"
    (recipe.parent / "samples.safetensors").unlink()
    assert run("plan", recipe).status == 0
    first = surgery.load(recipe.parent / "out").model.model.layers[0]
    rows = first.self_attn.q_proj.lora_default_A
    torch.testing.assert_close(rows @ rows.T, torch.eye(2), rtol=0, atol=1e-5)


def test_adapters_of_one_recipe_are_combined_and_loaded(recipe: Path, run: Run) -> None:
    mix = {
        "use": "lora-combine",
        "with": {"weights": {"one": 0.5, "two": 0.5}, "into": "both", "how": "cat"},
    }
    begin = [lora("orthogonal", adapter=name) for name in ("one", "two")]
    write_recipe(recipe, surgeries=[*begin, mix])
    assert checks(run("apply", recipe, "--json"))["identity at init"] == "passed"
    model = surgery.load(recipe.parent / "out").model
    layer = model.model.layers[2].self_attn.q_proj
    want = torch.cat([layer.lora_one_A * 0.5, layer.lora_two_A * 0.5])
    torch.testing.assert_close(layer.lora_both_A, want, rtol=0, atol=0)
    assert not layer.lora_both_A.requires_grad


def test_an_unknown_initialiser_is_an_error_with_its_place(recipe: Path, run: Run) -> None:
    write_recipe(recipe, surgeries=[lora("pisa")])
    ran = run("plan", recipe)
    assert ran.status != 0
    assert "recipe.yaml:" in ran.err
    assert "pissa" in ran.err


TAKING: list[Any] = ["pissa", {"use": "pissa", "iterations": 2}, "olora", "orthogonal", "loftq",
                     {"use": "loftq", "bits": 2, "rounds": 2}]  # fmt: skip


@pytest.mark.parametrize("init", TAKING, ids=str)
def test_file_by_file_gives_the_same_bytes_as_in_memory(init: Any, recipe: Path) -> None:
    mixes = [
        {"use": "lora-combine",
         "with": {"weights": {"one": 1.0, "default": 0.5}, "into": how.replace("_", ""),
                  "how": how, **more}}
        for how, more in (("cat", {}), ("svd", {}), ("dare_ties_svd", {"density": 0.5}))
    ]  # fmt: skip
    begin = [lora("orthogonal", adapter="one", dora=False), lora(init)]
    write_recipe(recipe, surgeries=[begin[0], {**begin[1], "overlap": True}, *mixes])
    found = []
    for way in ("live", "stream"):
        known = registry()
        read = read_recipe(recipe, registry=known)
        out = apply_recipe(read, known, how.Run(way, force=True))  # type: ignore[arg-type]
        found.append((out.folder / "changed.safetensors").read_bytes())
    assert found[0] == found[1]


def test_samples_are_observed_in_memory_and_the_other_way_is_refused(recipe: Path) -> None:
    save_file({"input_ids": torch.arange(48).view(8, 6)}, recipe.parent / "samples.safetensors")
    write_recipe(recipe, surgeries=[lora({"use": "eva", "data": "./samples.safetensors"})])
    known = registry()
    read = read_recipe(recipe, registry=known)
    with pytest.raises(surgery.SurgeryError, match="running the model's forward"):
        apply_recipe(read, known, how.Run("stream"))
    assert apply_recipe(read, known, how.Run(engine=Engine(memory=1))).folder.is_dir()
