"""Adapters of older PEFT versions, of other tools and wrappers, and several at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import surgery
from surgery.errors import ConflictError, PatientError, RecipeError, SurgeryError
from surgery.hooks.registry import registry
from surgery.operate.patient import Patient
from surgery_plugins.peft.read import load_peft
from surgery_plugins.surgeries.lora.adapters import adapter_names, disabled, select
from tests.peft import kit
from tests.peft.kit import TOLERANCE, answer, difference, fresh, saved_by_peft

pytestmark = pytest.mark.filterwarnings("ignore")

FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MANY: dict[str, Any] = {
    "target_modules": ["q_proj", "v_proj"],
    "use_dora": True,
    "modules_to_save": ["lm_head"],
    "trainable_token_indices": [3, 9],
}


def rewrite(folder: Path, name: Callable[[str], str]) -> None:
    tensors = load_file(folder / FILE)
    save_file({name(key): tensor for key, tensor in tensors.items()}, folder / FILE)


def configure(folder: Path, **change: Any) -> None:
    data = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**data, **change}))


def with_adapter_name(key: str) -> str:
    key = re.sub(r"(lora_[AB])\.weight", r"\1.default.weight", key)
    key = re.sub(r"(magnitude_vector)$", r"\1.default.weight", key)
    key = re.sub(r"(tokens_delta)$", r"\1.default", key)
    return re.sub(r"lm_head\.", "lm_head.modules_to_save.default.", key)


NAMES: dict[str, Callable[[str], str]] = {
    "today": lambda key: key,
    "without prefix": lambda key: key.removeprefix("base_model.model."),
    "with the adapter's name": with_adapter_name,
    "saved module in a wrapper": lambda key: key.replace("lm_head.", "lm_head.modules_to_save."),
    "compiled": lambda key: key.replace("model.model.", "model._orig_mod.model."),
    "sharded": lambda key: key.replace("self_attn.", "_fsdp_wrapped_module.self_attn."),
    "dora as a layer": lambda key: key.replace("magnitude_vector", "magnitude_vector.weight"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_other_versions_and_wrappers_mean_the_same(name: str, tmp_path: Path) -> None:
    base, theirs = saved_by_peft(kit.llama, tmp_path, **MANY)
    rewrite(tmp_path, NAMES[name])
    load_peft(base, tmp_path)
    assert difference(answer(base), answer(theirs)) <= TOLERANCE


def test_a_configuration_of_an_old_version_has_fewer_keys(tmp_path: Path) -> None:
    base, theirs = saved_by_peft(kit.gpt2, tmp_path, target_modules=["c_attn"], fan_in_fan_out=True)
    old = {
        "base_model_name_or_path": "gpt2", "bias": "none", "enable_lora": None,
        "fan_in_fan_out": True, "inference_mode": True, "lora_alpha": 8, "lora_dropout": 0.0,
        "merge_weights": False, "modules_to_save": None, "peft_type": "LORA", "r": 3,
        "target_modules": ["c_attn"], "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (tmp_path / CONFIG).write_text(json.dumps(old))
    load_peft(base, tmp_path)
    assert difference(answer(base), answer(theirs)) <= TOLERANCE


def test_a_pickle_of_tensors_is_read_without_running_anything(tmp_path: Path) -> None:
    base, theirs = saved_by_peft(kit.llama, tmp_path, **MANY)
    torch.save(load_file(tmp_path / FILE), tmp_path / "adapter_model.bin")
    (tmp_path / FILE).unlink()
    load_peft(base, tmp_path)
    assert difference(answer(base), answer(theirs)) <= TOLERANCE


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def test_a_pickle_with_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base, _ = saved_by_peft(kit.llama, tmp_path, target_modules=["q_proj"])
    torch.save({"x": Bomb()}, tmp_path / "adapter_model.bin")
    (tmp_path / FILE).unlink()
    with pytest.raises(PatientError, match="tensors and plain containers only"):
        load_peft(base, tmp_path)
    assert not (tmp_path / "exploded").exists()


def two(tmp_path: Path, **second: Any) -> tuple[torch.nn.Module, Any]:
    import copy

    import peft

    base = fresh(kit.llama)
    given: dict[str, Any] = {"r": 3, "init_lora_weights": False}
    first = peft.LoraConfig(**given, target_modules=["q_proj"], modules_to_save=["lm_head"])
    theirs: Any = peft.get_peft_model(copy.deepcopy(base), first).eval()
    theirs.add_adapter("My_style", peft.LoraConfig(**given, target_modules=["up_proj"], **second))
    kit.train(theirs)
    theirs.save_pretrained(str(tmp_path))
    return base, theirs


def test_several_adapters_of_one_folder_load_together_and_are_chosen(tmp_path: Path) -> None:
    base, theirs = two(tmp_path)
    plain = answer(base)
    applied = load_peft(base, {"default": tmp_path, "style": tmp_path / "My_style"})
    assert set(adapter_names(base)) == {"default", "style"}
    theirs.base_model.set_adapter(["default", "My_style"])
    assert difference(answer(base), answer(theirs)) <= TOLERANCE
    for ours, name in (("default", "default"), ("style", "My_style")):
        select(base, [ours])
        theirs.set_adapter(name)
        if name == "default":  # the saved head is the base's own here and stays
            assert difference(answer(base), answer(theirs)) <= TOLERANCE
    applied.save(tmp_path / "out")
    again = surgery.load(tmp_path / "out", fresh(kit.llama)).model
    theirs.base_model.set_adapter(["default", "My_style"])
    assert difference(answer(again), answer(theirs)) <= TOLERANCE
    applied.undo()
    assert torch.equal(answer(base), plain)


def test_the_importer_names_adapters_by_their_folders(tmp_path: Path) -> None:
    base, _ = two(tmp_path)
    importer = registry().importer("peft")
    found = importer.read([tmp_path, tmp_path / "My_style"], Patient(base))
    names = {step["with"]["adapter"] for step in found.steps if step["use"] == "lora"}
    assert "mystyle" in names
    assert len(names) == 2
    with pytest.raises(RecipeError, match="twice"):
        importer.read([tmp_path, tmp_path], Patient(base))


def test_two_adapters_that_replace_one_module_are_refused(tmp_path: Path) -> None:
    base, _ = two(tmp_path, modules_to_save=["lm_head"])
    with pytest.raises(ConflictError, match=r"lm_head\.weight"):
        load_peft(base, {"default": tmp_path, "style": tmp_path / "My_style"})


def test_a_folder_whose_adapters_lie_below_says_where(tmp_path: Path) -> None:
    base, _ = two(tmp_path)
    (tmp_path / CONFIG).unlink()
    with pytest.raises(PatientError, match="My_style"):
        load_peft(base, tmp_path)


def test_a_second_adapter_loads_beside_the_first_and_off_is_the_base(tmp_path: Path) -> None:
    base, theirs = saved_by_peft(kit.llama, tmp_path / "a", target_modules=["q_proj"])
    plain = answer(base)
    load_peft(base, tmp_path / "a", adapter="first")
    load_peft(base, tmp_path / "a", adapter="second")
    select(base, ["second"])
    assert difference(answer(base), answer(theirs)) <= TOLERANCE
    with disabled(base):
        assert torch.equal(answer(base), plain)


def test_half_precision_bases_give_the_outputs_of_peft_up_to_rounding(tmp_path: Path) -> None:
    base, theirs = saved_by_peft(
        lambda: kit.llama().bfloat16(), tmp_path, target_modules=["q_proj"]
    )
    load_peft(base, tmp_path)
    added = [p.dtype for n, p in base.named_parameters() if "lora_" in n]
    assert set(added) == {torch.float32}
    assert difference(answer(base), answer(theirs)) <= 2**-7


def test_unknown_settings_are_refused_by_name(tmp_path: Path) -> None:
    base, _ = saved_by_peft(kit.llama, tmp_path, target_modules=["q_proj"])
    configure(tmp_path, use_quantum_lora=True)
    with pytest.raises(SurgeryError, match="use_quantum_lora"):
        load_peft(base, tmp_path)
