"""PEFT's own loader takes what is exported, with equal outputs, merged too; and it comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

import surgery
from surgery_plugins.peft.doors import PeftExporter
from surgery_plugins.peft.export import export_adapter
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
    inputs_of,
    stir,
)

pytestmark = pytest.mark.filterwarnings("ignore")

QV = ["attention.q", "attention.v"]
FREEZE = {"use": "freeze", "at": {"path": "**"}}


def lora(at: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"use": "lora", "at": at, "with": {"rank": 4, **options}, "overlap": True}


def unfreeze(path: str | list[str], **options: Any) -> dict[str, Any]:
    return {"use": "unfreeze", "at": {"path": path}, "with": options, "overlap": True}


Q = lora({"role": "attention.q"})
CASES: dict[str, tuple[Make, list[dict[str, Any]]]] = {
    "linear": (kit.llama, [lora({"role": ["attention.q", "mlp.down"]}, alpha=8)]),
    "last layer": (kit.llama, [lora({"role": QV, "layers": "-1"})]),
    "rank pattern": (kit.llama, [lora({"role": QV}, rank_pattern={"attention.q": 2})]),
    "alpha pattern": (kit.llama, [lora({"role": QV}, alpha_pattern={"**.layers.1.**": 3})]),
    "rslora": (kit.llama, [lora({"role": QV}, alpha=8, rslora=True)]),
    "rslora, rank one": (
        kit.llama,
        [lora({"role": QV}, alpha=8, rslora=True, rank_pattern={"attention.q": 1})],
    ),
    "dora": (kit.llama, [lora({"role": ["attention.k", "head"]}, dora=True)]),
    "rslora and dora": (kit.llama, [lora({"role": QV}, dora=True, rslora=True)]),
    "dropout": (kit.llama, [lora({"role": QV}, dropout=0.1)]),
    "embedding": (kit.llama, [lora({"role": "embedding"})]),
    "embedding dora": (kit.llama, [lora({"role": "embedding"}, dora=True)]),
    "scaled embedding": (kit.gemma, [lora({"path": ["**.embed_tokens", "**.q_proj"]})]),
    "embedding of a tie": (kit.tied, [lora({"path": "model.embed_tokens"})]),
    "head of a tie": (kit.tied, [lora({"path": "lm_head"})]),
    "fan in fan out": (kit.gpt2, [lora({"role": ["attention.proj", "mlp.up"]})]),
    "fan in fan out dora": (kit.gpt2, [lora({"role": "attention.proj"}, dora=True)]),
    "rows, contiguous": (kit.gpt2, [lora({"role": QV})]),
    "rows, dropout": (kit.gpt2, [lora({"role": QV}, dropout=0.2)]),
    "rows, dora": (kit.gpt2, [lora({"role": QV}, dora=True)]),
    "rows, interleaved": (kit.neox, [lora({"role": QV}, alpha_pattern={"attention.v": 7})]),
    "rows, interleaved dora": (kit.neox, [lora({"role": QV}, dora=True, rslora=True)]),
    "rows of unequal rank": (kit.neox, [lora({"role": QV}, rank_pattern={"attention.v": 2})]),
    "experts": (kit.mixtral, [lora({"role": "mlp.down"})]),
    "experts, rows and both": (kit.mixtral, [lora({"role": ["mlp.up", "mlp.down"]})]),
    "experts, input first": (kit.gpt_oss, [lora({"role": ["mlp.up", "mlp.down"]})]),
    "experts and others with dropout": (
        kit.mixtral,
        [lora({"role": "mlp.down"}), lora({"role": "attention.q"}, dropout=0.1)],
    ),
    "attention in projection": (kit.Attention, [lora({"role": QV})]),
    "conv1d": (kit.conv1d, [lora({"path": ["a", "b"]})]),
    "conv2d": (kit.conv2d, [lora({"path": ["a", "b"]}, rank=3)]),
    "conv2d dora": (kit.conv2d, [lora({"path": ["a", "b"]}, rank=3, dora=True)]),
    "conv3d": (kit.conv3d, [lora({"path": ["a", "b"]})]),
    "grouped": (kit.grouped, [lora({"path": ["a", "b"]})]),
    "gaussian": (kit.llama, [lora({"role": QV}, init="gaussian")]),
    "pissa": (kit.llama, [lora({"role": QV}, init="pissa")]),
    "olora of rows": (kit.gpt2, [lora({"role": QV}, init="olora", alpha=8)]),
    "pissa and dora": (kit.llama, [lora({"role": QV}, init="pissa", dora=True)]),
    "pissa of a convolution": (kit.conv2d, [lora({"path": "a"}, init="pissa")]),
    "whole head": (kit.llama, [Q, unfreeze("lm_head")]),
    "whole norms that end alike": (kit.llama, [Q, unfreeze("model.norm")]),
    "weight and bias": (kit.bert, [Q, unfreeze("classifier")]),
    "whole of a tie": (kit.tied, [Q, unfreeze("model.embed_tokens")]),
    "one of a broken tie": (
        kit.tied,
        [{"use": "untie", "at": {"path": "lm_head"}}, Q, unfreeze("lm_head")],
    ),
    "rows": (kit.llama, [Q, unfreeze("model.embed_tokens", rows="3-5,9")]),
    "rows of a tie": (kit.tied, [Q, unfreeze("model.embed_tokens", rows="3-5,9")]),
    "rows of the head": (kit.llama, [Q, unfreeze("lm_head", rows="3-5,9")]),
    "rows of GPT-2's tie": (
        kit.gpt2,
        [lora({"role": "mlp.up"}), unfreeze("transformer.wte", rows="7,30")],
    ),
    "biases of adapters": (kit.biased, [lora({"role": "attention.q"}, bias="lora")]),
    "all biases": (kit.biased, [lora({"role": "attention.q"}, bias="all")]),
    "one bias": (kit.biased, [Q, unfreeze("model.layers.1.mlp.up_proj.bias")]),
}


def operated(make: Make, steps: list[dict[str, Any]]) -> Any:
    """Operate, and train what takes gradients; what is frozen first can only train if asked."""
    model = fresh(make)
    first = [step for step in steps if step["use"] == "untie"]
    rest = [step for step in steps if step["use"] != "untie"]
    applied = surgery.apply(model, [*first, FREEZE, *rest], inputs=inputs_of(model))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return applied


def exported(applied: Any, folder: Path) -> Path:
    folder.mkdir()
    PeftExporter().export(applied.operation, applied.journal, folder)
    return folder


NOT_MERGED = {
    "embedding of a tie": "the one table of both changes for both",
    "scaled embedding": "the same",
    "head of a tie": "the same",
    "grouped": "PEFT raises",
    "conv3d": "PEFT raises",
}
"""What PEFT 0.21 cannot merge, and why; where it can, the merged outputs are compared."""


def merges(theirs: Any, wanted: torch.Tensor) -> bool:
    """Tell whether PEFT merges its adapter without a change of the outputs."""
    try:
        return difference(answer(theirs.merge_and_unload()), wanted) <= TOLERANCE
    except (NotImplementedError, RuntimeError):
        return False


SLOW = (
    "last layer", "rslora, rank one", "rslora and dora", "dropout", "fan in fan out dora",
    "rows, dropout", "rows, interleaved dora", "experts and others with dropout", "conv1d",
    "gaussian", "olora of rows", "pissa of a convolution", "rows of GPT-2's tie", "one bias",
    "scaled embedding", "embedding dora", "head of a tie",
)  # fmt: skip


@pytest.mark.parametrize("name", cases(CASES, SLOW))
def test_peft_loads_what_is_exported(name: str, tmp_path: Path) -> None:
    make, steps = CASES[name]
    applied = operated(make, steps)
    plain, wanted = answer(fresh(make)), answer(applied.model)
    folder = exported(applied, tmp_path / "peft")
    assert difference(wanted, plain) > 1e-5
    theirs = in_peft(fresh(make), folder)
    assert difference(answer(theirs), wanted) <= TOLERANCE
    assert merges(theirs, wanted) == (name not in NOT_MERGED)
    back = fresh(make)
    load_peft(back, folder, inputs=inputs_of(back))
    assert difference(answer(back), wanted) <= TOLERANCE


@pytest.mark.parametrize("case", ["linear", "rank pattern", "dora", "experts", "whole of a tie"])
def test_peft_finds_no_tensor_missing_and_none_too_many(
    case: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = exported(operated(*CASES[case]), tmp_path / "peft")
    base = fresh(CASES[case][0])
    theirs = peft.get_peft_model(base, peft.PeftConfig.from_pretrained(str(folder)))
    told = theirs.load_adapter(str(folder), "again")
    assert not told.unexpected_keys
    assert not [key for key in told.missing_keys if ".again" in key]


class Twins(nn.Module):
    """Paths of which one ends as the other does, and as a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(16, 16)
        self.inner = nn.ModuleDict({"proj": nn.Linear(16, 16), "xproj": nn.Linear(16, 16)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner["xproj"](self.inner["proj"](self.proj(x)))


def test_a_rank_and_an_alpha_of_one_path_meet_no_path_that_ends_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, model = Twins(), Twins()
    model.load_state_dict(base.state_dict())
    options = {"rank_pattern": {"proj": 2, "inner.xproj": 3}, "alpha_pattern": {"proj": 9}}
    surgery.apply(model, lora({"type": "Linear"}, **options))
    stir(model)
    export_adapter(model, "default", tmp_path)
    theirs = in_peft(base, tmp_path)
    ranks = {n: m.r["default"] for n, m in theirs.named_modules() if hasattr(m, "lora_A")}
    assert list(ranks.values()) == [2, 4, 3]
    with torch.no_grad():
        assert difference(theirs(kit.X), model(kit.X)) <= TOLERANCE


def test_several_adapters_lie_as_peft_lays_them(tmp_path: Path) -> None:
    steps = [Q, lora({"role": "mlp.up"}, adapter="style", alpha=9), unfreeze("lm_head")]
    applied = operated(kit.llama, steps)
    folder = exported(applied, tmp_path / "peft")
    assert json.loads((folder / "style" / "adapter_config.json").read_text())["lora_alpha"] == 9
    theirs = in_peft(fresh(kit.llama), folder)
    theirs.load_adapter(str(folder / "style"), "style")
    theirs.base_model.set_adapter("style")
    from surgery_plugins.surgeries.lora.adapters import select

    for name in ("style", "default"):
        theirs.set_adapter(name)
        select(applied.model, [name])
        assert difference(answer(theirs), answer(applied.model)) <= TOLERANCE
