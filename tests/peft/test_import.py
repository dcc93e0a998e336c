"""Adapters that PEFT made load here, with PEFT's outputs; they reload, undo and go back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery_plugins.peft.doors import PeftExporter
from surgery_plugins.peft.read import load_peft
from tests.peft import kit
from tests.peft.kit import (
    TOLERANCE,
    Make,
    answer,
    cases,
    difference,
    fresh,
    in_peft,
    saved_by_peft,
)

pytestmark = pytest.mark.filterwarnings("ignore")

Q: dict[str, Any] = {"target_modules": ["q_proj"]}
CASES: dict[str, tuple[Make, dict[str, Any]]] = {
    "linear": (kit.llama, {"target_modules": ["q_proj", "down_proj"]}),
    "all linear": (kit.llama, {"target_modules": "all-linear"}),
    "regex": (kit.llama, {"target_modules": r".*layers\.1.*(q|v)_proj"}),
    "patterns": (
        kit.llama,
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"layers.1.mlp.down_proj": 5},
        },
    ),
    "anchored patterns": (
        kit.llama,
        {"target_modules": ["q_proj"], "rank_pattern": {r"^model\.layers\.0.self_attn.q_proj": 5}},
    ),
    "rslora": (kit.llama, {"target_modules": ["v_proj"], "lora_alpha": 16, "use_rslora": True}),
    "dora": (kit.llama, {"target_modules": ["v_proj"], "use_dora": True}),
    "rslora and dora": (kit.llama, {**Q, "use_dora": True, "use_rslora": True}),
    "dropout": (kit.llama, {"target_modules": ["q_proj", "embed_tokens"], "lora_dropout": 0.2}),
    "layers": (kit.llama, {**Q, "layers_to_transform": [1]}),
    "layers of a pattern": (kit.llama, {**Q, "layers_to_transform": 0, "layers_pattern": "layers"}),
    "excluded": (kit.llama, {"target_modules": "all-linear", "exclude_modules": ["up_proj"]}),
    "excluded by regex": (kit.llama, {**Q, "exclude_modules": r".*layers\.0.*"}),
    "embedding": (kit.llama, {"target_modules": ["embed_tokens"]}),
    "embedding dora": (kit.llama, {"target_modules": ["embed_tokens"], "use_dora": True}),
    "scaled embedding": (kit.gemma, {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding of a tie": (kit.tied, {"target_modules": ["embed_tokens"]}),
    "both of a tie": (
        kit.tied,
        {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
    ),
    "fan in fan out": (kit.gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "conv1d": (kit.conv1d, {"target_modules": ["a", "b"]}),
    "conv2d": (kit.conv2d, {"target_modules": ["a", "b"]}),
    "conv3d": (kit.conv3d, {"target_modules": ["a", "b"]}),
    "conv2d dora": (kit.conv2d, {"target_modules": ["a", "b"], "use_dora": True}),
    "head saved": (kit.llama, {**Q, "modules_to_save": ["lm_head"]}),
    "names that end alike": (kit.llama, {**Q, "modules_to_save": ["norm"]}),
    "statistics saved": (kit.conv2d, {"target_modules": ["a"], "modules_to_save": ["norm"]}),
    "classifier": (
        kit.bert,
        {"target_modules": ["query"], "modules_to_save": ["classifier"], "task_type": "SEQ_CLS"},
    ),
    "embedding saved, tie broken": (kit.tied, {**Q, "modules_to_save": ["embed_tokens"]}),
    "both saved apart": (kit.tied, {**Q, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "both saved, tie kept": (
        kit.tied,
        {**Q, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "rows": (kit.llama, {**Q, "trainable_token_indices": [9, 3, 30]}),
    "rows of a tie": (kit.tied, {**Q, "trainable_token_indices": {"embed_tokens": [9, 3]}}),
    "rows of both": (
        kit.llama,
        {**Q, "trainable_token_indices": {"embed_tokens": [9, 3], "lm_head": [1]}},
    ),
    "rows of a tie, apart": (
        kit.tied,
        {**Q, "trainable_token_indices": {"embed_tokens": [9, 3], "lm_head": [1]}},
    ),
    "scaled rows": (kit.gemma, {**Q, "trainable_token_indices": [9, 3]}),
    "biases of adapters": (
        kit.biased,
        {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"},
    ),
    "all biases": (kit.biased, {**Q, "bias": "all"}),
    "experts": (
        kit.mixtral,
        {"target_modules": [], "target_parameters": ["experts.down_proj"]},
    ),
    "experts nested": (
        kit.mixtral,
        {
            "target_modules": ["q_proj"],
            "target_parameters": ["experts.down_proj", "experts.gate_up_proj"],
            "rank_pattern": {"experts.down_proj": 2},
        },
    ),
    "experts stored input first": (
        kit.gpt_oss,
        {"target_modules": [], "target_parameters": ["experts.down_proj", "experts.gate_up_proj"]},
    ),
    "a weight as a parameter": (
        kit.llama,
        {"target_modules": [], "target_parameters": ["q_proj.weight"], "use_rslora": True},
    ),
}


SLOW = (
    "regex", "anchored patterns", "rslora and dora", "layers", "layers of a pattern",
    "excluded by regex", "embedding dora", "conv1d", "conv2d dora", "scaled embedding",
    "scaled rows", "rows of both", "a weight as a parameter", "names that end alike",
)  # fmt: skip


@pytest.mark.parametrize("name", cases(CASES, SLOW))
def test_an_adapter_of_peft_gives_the_same_outputs_here(name: str, tmp_path: Path) -> None:
    make, config = CASES[name]
    base, theirs = saved_by_peft(make, tmp_path / "theirs", **config)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    plain, wanted = answer(base), answer(theirs)
    applied = load_peft(base, tmp_path / "theirs")
    assert difference(wanted, plain) > 1e-4
    assert difference(answer(base), wanted) <= TOLERANCE

    applied.save(tmp_path / "ours")
    again = surgery.load(tmp_path / "ours", fresh(make))
    assert torch.equal(answer(again.model), answer(base))

    (tmp_path / "back").mkdir()
    PeftExporter().export(again.operation, again.journal, tmp_path / "back")
    assert difference(answer(in_peft(fresh(make), tmp_path / "back")), wanted) <= TOLERANCE

    applied.undo()
    assert torch.equal(answer(base), plain)
    after = base.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("case", ["linear", "dora", "fan in fan out", "conv2d", "experts nested"])
def test_merged_outputs_are_those_of_peft(case: str, tmp_path: Path) -> None:
    make, config = CASES[case]
    base, theirs = saved_by_peft(make, tmp_path, **config)
    load_peft(base, tmp_path)
    surgery.apply(base, {"use": "merge"})
    merged = copy.deepcopy(theirs).merge_and_unload()
    assert not any("lora_" in name for name, _ in base.named_parameters())
    assert difference(answer(base), answer(merged)) <= TOLERANCE


def test_only_what_peft_trains_takes_gradients(tmp_path: Path) -> None:
    base, theirs = saved_by_peft(
        kit.biased, tmp_path, **{**Q, "bias": "lora_only", "modules_to_save": ["lm_head"]}
    )
    load_peft(base, tmp_path)
    ours = sum(p.numel() for p in base.parameters() if p.requires_grad)
    assert ours == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
