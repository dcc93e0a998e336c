"""Laws of plan, apply and load, from a recipe's file to a folder and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.checkpoint.tensors import TensorReader
from surgery.errors import IntegrityError, PluginError, SurgeryError
from tests.command import Ran
from tests.flow.conftest import write_recipe

Run = Callable[..., Ran]
IDS = torch.tensor([[1, 5, 9, 3]])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stir(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape) * 0.1


def test_plan_reads_no_weight(recipe: Path, base: Path, run: Run) -> None:
    (base / "model.safetensors").unlink()
    ran = run("plan", recipe, "--json")
    assert ran.status == 0, ran.err
    parameters = ran.json["parameters"]
    assert parameters["trainable"] == parameters["added"] == 4 * 2 * 16 + 2 * (2 * 16 + 2 * 8)
    assert not (recipe.parent / "out").exists()


def test_plan_is_what_apply_does(recipe: Path, run: Run) -> None:
    planned = run("plan", recipe, "--json").json
    applied = run("apply", recipe, "--json")
    assert applied.status == 0, applied.err
    for key in ("steps", "tensors", "parameters", "config"):
        assert applied.json["plan"][key] == planned[key]
    checks = {check["name"]: check["status"] for check in applied.json["checks"]}
    assert checks["plan equals model"] == checks["identity at init"] == "passed"
    assert "failed" not in checks.values()
    assert checks["contracts"] == "skipped"


def test_the_same_recipe_gives_the_same_bytes(recipe: Path, run: Run) -> None:
    assert run("apply", recipe, "--output", recipe.parent / "a").status == 0
    assert run("apply", recipe, "--output", recipe.parent / "b").status == 0
    assert tree(recipe.parent / "a") == tree(recipe.parent / "b")


def test_what_was_saved_loads_with_its_flags_and_values(recipe: Path, run: Run) -> None:
    assert run("apply", recipe).status == 0
    loaded = surgery.load(recipe.parent / "out")
    trained = {n for n, p in loaded.model.named_parameters() if p.requires_grad}
    assert trained == set(loaded.plan.trainable)
    assert len(trained) == 8
    stir(loaded.model)
    with torch.no_grad():
        wanted = loaded.model(input_ids=IDS).logits
    loaded.save(recipe.parent / "trained")
    again = surgery.load(recipe.parent / "trained")
    with torch.no_grad():
        assert torch.equal(again.model(input_ids=IDS).logits, wanted)
        again.undo()
        assert not torch.equal(again.model(input_ids=IDS).logits, wanted)
    state = again.model.state_dict()
    reader = TensorReader(recipe.parent / "base" / "model.safetensors")
    assert all(torch.equal(state[name], reader.get(name)) for name in reader.entries)


def test_only_changed_tensors_are_written_unless_all_are_asked_for(recipe: Path, run: Run) -> None:
    assert run("apply", recipe).status == 0
    assert not (recipe.parent / "out" / "model.safetensors").exists()
    full = run("apply", recipe, "--output", recipe.parent / "full", "--set", "output.save=full")
    assert full.status == 0, full.err
    names = set(TensorReader(recipe.parent / "full" / "model.safetensors").entries)
    assert names == set(TensorReader(recipe.parent / "base" / "model.safetensors").entries)
    (recipe.parent / "base").rename(recipe.parent / "gone")
    assert len(surgery.load(recipe.parent / "full").plan.added) == 8
    with pytest.raises(SurgeryError, match="base"):
        surgery.load(recipe.parent / "out")
    assert surgery.load(recipe.parent / "out", base=recipe.parent / "gone").plan.added


def test_an_adapter_does_not_load_on_another_base_of_equal_shape(
    recipe: Path, base: Path, run: Run
) -> None:
    assert run("apply", recipe).status == 0
    file = base / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"base.*another model\.safetensors"):
        surgery.load(recipe.parent / "out")


def test_a_live_model_loads_only_on_the_same_bits(recipe: Path, run: Run) -> None:
    assert run("apply", recipe).status == 0
    model = surgery.load(recipe.parent / "out").model
    step = {"use": "lora", "at": {"role": "mlp.up"}, "with": {"adapter": "second"}}
    surgery.apply(model, step).save(recipe.parent / "live")
    other = surgery.load(recipe.parent / "out").model
    assert surgery.load(recipe.parent / "live", other).plan.added
    with pytest.raises(SurgeryError):
        surgery.load(recipe.parent / "live")
    wrong = surgery.load(recipe.parent / "out").model
    with torch.no_grad():
        wrong.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] += 1
    with pytest.raises(IntegrityError, match="another"):
        surgery.load(recipe.parent / "live", wrong)


def forge(folder: Path, change: Callable[[Any], None]) -> None:
    """Change the journal and seal the folder again: what the manifest cannot find out."""
    from surgery.checkpoint.manifest import MANIFEST, write_manifest

    file = folder / "surgery.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    (folder / MANIFEST).unlink()
    write_manifest(folder)


def test_a_damaged_output_does_not_load(recipe: Path, run: Run) -> None:
    assert run("apply", recipe).status == 0
    file = recipe.parent / "out" / "changed.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 8
    file.write_bytes(content)
    with pytest.raises(SurgeryError, match=r"changed\.safetensors"):
        surgery.load(recipe.parent / "out")


@pytest.mark.parametrize(
    "change",
    [
        lambda j: j["tensors"].pop(next(iter(j["tensors"]))),
        lambda j: j["steps"][1]["sites"].pop(),
        lambda j: j["steps"][1]["options"].update(rank=3),
        lambda j: j["steps"][1]["options"].update(rnk=3),
        lambda j: j["steps"][1]["sites"][0].update(shape="x"),
        lambda j: j["steps"][1]["sites"][0].update(path="model.layers.9.x", parameter="y.weight"),
        lambda j: j.update(journal=2),
        lambda j: j.update(code="import os"),
        lambda j: j.update(base={}),
    ],
)
def test_a_journal_that_does_not_fit_its_tensors_does_not_load(
    recipe: Path, run: Run, change: Callable[[Any], None]
) -> None:
    assert run("apply", recipe).status == 0
    forge(recipe.parent / "out", change)
    with pytest.raises(SurgeryError):
        surgery.load(recipe.parent / "out")


def test_a_missing_plugin_is_named_with_the_line_that_installs_it(recipe: Path, run: Run) -> None:
    assert run("apply", recipe).status == 0

    def change(journal: Any) -> None:
        journal["steps"][0].update(use="acme/freeze", plugin="acme-plugin", version="3.1")

    forge(recipe.parent / "out", change)
    with pytest.raises(PluginError, match=r"pip install 'acme-plugin>=3\.1'"):
        surgery.load(recipe.parent / "out")


def test_an_output_is_replaced_only_by_force(recipe: Path, run: Run) -> None:
    assert run("apply", recipe).status == 0
    before = tree(recipe.parent / "out")
    ran = run("apply", recipe, "--set", "seed=7")
    assert (ran.status, ran.out) == (1, "")
    assert "--force" in ran.err
    assert tree(recipe.parent / "out") == before
    assert run("apply", recipe, "--set", "seed=7", "--force").status == 0
    assert tree(recipe.parent / "out") != before


def test_initial_values_do_not_depend_on_the_other_sites(
    recipe: Path, base: Path, run: Run
) -> None:
    assert run("apply", recipe).status == 0
    narrow = [{"use": "lora", "at": {"role": "attention.v", "layers": 2}, "with": {"rank": 2}}]
    write_recipe(recipe, surgeries=narrow, output={"path": "./narrow"})
    assert run("apply", recipe).status == 0
    wide = TensorReader(recipe.parent / "out" / "changed.safetensors")
    few = TensorReader(recipe.parent / "narrow" / "changed.safetensors")
    assert len(few.entries) == 2 < len(wide.entries)
    assert all(torch.equal(few.get(name), wide.get(name)) for name in few.entries)


def test_the_peft_folder_of_an_output_loads_with_peft(recipe: Path, base: Path, run: Run) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    write_recipe(recipe, output={"path": "./out", "also": ["peft"]})
    assert run("apply", recipe).status == 0
    model = AutoModelForCausalLM.from_pretrained(base)
    loaded = peft.PeftModel.from_pretrained(model, str(recipe.parent / "out" / "peft"))
    assert sum("lora_A" in name for name, _ in loaded.named_parameters()) == 4
    write_recipe(recipe, output={"path": "./other", "also": ["peef"]})
    assert "did you mean 'peft'" in run("apply", recipe).err


def test_output_for_machines_is_one_object_and_remarks_go_to_stderr(recipe: Path, run: Run) -> None:
    ran = run("apply", recipe, "--json")
    assert ran.json["ok"] is True
    assert "load" in ran.err
    quiet = run("apply", recipe, "--force", "--quiet")
    assert quiet.err == ""
    assert "trainable: " in quiet.out
    assert "\x1b" not in quiet.out


def test_trained_base_tensors_are_saved_too_and_undone(recipe: Path, run: Run) -> None:
    steps = [{"use": "freeze"}, {"use": "unfreeze", "at": {"path": "model.norm"}}]
    write_recipe(recipe, surgeries=steps)
    assert run("apply", recipe).status == 0
    loaded = surgery.load(recipe.parent / "out")
    base = loaded.model.model.norm.weight.detach().clone()
    stir(loaded.model)
    trained = loaded.model.model.norm.weight.detach().clone()
    loaded.save(recipe.parent / "trained")
    again = surgery.load(recipe.parent / "trained")
    assert torch.equal(again.model.model.norm.weight, trained)
    assert again.model.model.norm.weight.requires_grad
    again.undo()
    assert torch.equal(again.model.model.norm.weight, base)
    live = surgery.load(recipe.parent / "out").model
    applied = surgery.apply(live, steps, seed=1)
    stir(applied.model)
    applied.save(recipe.parent / "live")
    other = surgery.load(recipe.parent / "out").model
    found = surgery.load(recipe.parent / "live", other).model.model.norm.weight
    assert torch.equal(found, applied.model.model.norm.weight)


def test_verify_says_what_holds_and_what_does_not(recipe: Path, base: Path, run: Run) -> None:
    assert run("apply", recipe).status == 0
    out = recipe.parent / "out"
    sound = run("verify", out, "--json")
    assert sound.status == 0
    found = {c["name"]: c["status"] for c in sound.json["checks"]}
    assert {name for name, status in found.items() if status == "skipped"} == {"contracts"}
    assert "failed" not in found.values()
    file = base / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    other = run("verify", out)
    assert other.status == 4
    assert "base" in other.err
    assert run("verify", out, "--fast").status == 0
    (out / "recipe.yaml").write_text("recipe: 1")
    damaged = run("verify", out)
    assert damaged.status == 4
    assert "recipe.yaml" in damaged.err
    assert damaged.out.count("  skip  ") == len(found) - 1
    assert run("verify", recipe.parent).status == 4
