"""Adapters in a checkpoint: refused until the user chooses; split off, PEFT reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery_plugins.sources.hf import HfSource
from tests.adopt.conftest import transformers
from tests.adopt.kit import saved
from tests.adopt.test_adopt import Tensors, assert_same, weights
from tests.command import Ran

peft = pytest.importorskip("peft")
Run = Callable[..., Ran]
SPLIT = ("--adapters", "split", "--lora-alpha", "6", "--lora-scaling", "plain")


def tuned(base: Path, **options: Any) -> Any:
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM.from_pretrained(base)
    model = peft.get_peft_model(model, peft.LoraConfig(lora_alpha=6, **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


OPTIONS: list[dict[str, Any]] = [
    {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    {"r": 4, "target_modules": ["q_proj"], "rank_pattern": {"layers.1.self_attn.q_proj": 2}},
    {"r": 2, "target_modules": ["embed_tokens", "o_proj"]},
    {"r": 2, "target_modules": ["q_proj"], "use_dora": True},
    {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("head", ["", "net._orig_mod."])
def test_split_off_adapters_load_in_peft_and_answer_the_same(
    run: Run, base: Path, state: Tensors, tmp_path: Path, options: dict[str, Any], head: str
) -> None:
    model = tuned(base, **options)
    path = saved(tmp_path / "a.pt", {head + n: t for n, t in model.state_dict().items()})
    done = run("adopt", path, "--like", base, "-o", tmp_path / "out", *SPLIT, "--json")
    assert done.status == 0, done.err
    assert_same(weights(tmp_path / "out"), state)
    again = HfSource(path=str(tmp_path / "out")).load().model
    adapter = tmp_path / "out" / done.json["adapters"][0]
    again = peft.PeftModel.from_pretrained(again, str(adapter)).eval()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)


def test_adapters_are_refused_until_the_user_chooses(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.pt", tuned(base, **OPTIONS[0]).state_dict())
    for extra in ([], ["--like", base]):
        done = run("adopt", path, *extra)
        assert done.status == 1
        assert "LoRA adapters 'default' (12 tensors)" in done.err
        assert "--adapters" in done.err
    done = run("adopt", path, "--like", base, "--adapters", "drop", "-o", tmp_path / "out")
    assert done.status == 0, done.err
    assert_same(weights(tmp_path / "out"), state)


def test_what_no_shape_shows_is_asked_for(run: Run, base: Path, tmp_path: Path) -> None:
    model = tuned(base, **OPTIONS[0])
    path = saved(tmp_path / "a.pt", model.state_dict())
    done = run("adopt", path, "--like", base, "--adapters", "split")
    assert (done.status, "--lora-alpha" in done.err) == (2, True)
    done = run("adopt", path, "--like", base, "--adapters", "split", "--lora-alpha", "6")
    assert (done.status, "--lora-scaling" in done.err) == (2, True)
    told = {"model": model.state_dict(), "hyper_parameters": {"lora_alpha": 6, "use_rslora": False}}
    done = run(
        "adopt", saved(path, told), "--like", base, "--adapters", "split", "-o", tmp_path / "out",
        "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert ("rank of adapter default", 4) in {(s["what"], s["value"]) for s in done.json["shown"]}


def test_without_a_structure_the_base_has_its_own_names_again(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.pt", tuned(base, **OPTIONS[4]).state_dict())
    done = run("adopt", path, *SPLIT, "-o", tmp_path / "out")
    assert done.status == 0, done.err
    assert_same(weights(tmp_path / "out"), state)


def test_other_methods_are_refused_or_left_out(
    run: Run, base: Path, state: Tensors, tmp_path: Path
) -> None:
    model = transformers.LlamaForCausalLM.from_pretrained(base)
    config = peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    path = saved(tmp_path / "a.pt", peft.get_peft_model(model, config).state_dict())
    done = run("adopt", path, "--like", base)
    assert (done.status, "another PEFT method" in done.err) == (1, True)
    done = run("adopt", path, "--like", base, *SPLIT)
    assert (done.status, "tensors of LoRA to split off" in done.err) == (1, True)
    done = run("adopt", path, "--like", base, "--adapters", "drop", "-o", tmp_path / "out")
    assert done.status == 0, done.err
    assert_same(weights(tmp_path / "out"), state)


def test_an_adapter_without_its_base_is_for_peft(run: Run, base: Path, tmp_path: Path) -> None:
    state = peft.get_peft_model_state_dict(tuned(base, **OPTIONS[0]))
    done = run("adopt", saved(tmp_path / "adapter_model.bin", state), *SPLIT)
    assert done.status == 1
    assert "without its base" in done.err
