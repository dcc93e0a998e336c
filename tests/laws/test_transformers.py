"""The laws, on models of transformers: configurations, ties of theirs, and their files' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from surgery.hooks.registry import Registry
from surgery.testing import case_of, hold
from surgery.testing.case import answers
from surgery_plugins.sources.hf import HfSource
from tests.laws.menu import Steps, lora, one
from tests.stream.models import MODELS, save

TIED = ("llama tied", "gpt2 (Conv1D, tied)", "t5 (two towers, tied)", "opt", "bert")
STEPS: dict[str, Steps] = {
    "two at once": [
        *one("freeze", {"role": "norm"}),
        *lora({"role": ["attention.q", "attention.v"]}, init="orthogonal"),
    ],
    "merged": [*lora({"role": ["attention.q", "mlp.down"]}, init="gaussian"), {"use": "merge"}],
    "cast": one("cast", dtype="float16"),
    "drop a layer": one("layers", {"layers": "1"}, do="drop"),
    "rows": one("unfreeze", {"role": "embedding"}, rows="3-5"),
    "untie": one("untie", {"role": "head"}),
}
SILENT = {
    "identity at init", "order of independent surgeries does not matter",
    "live equals streaming", "live equals streaming, whole",
}  # fmt: skip
"""Laws that may say nothing: of what changes outputs, of one step, of what files cannot give."""


def asked() -> list[Any]:
    """Each model with all that it can be asked for; the quick ones first."""
    found = []
    for name in sorted(MODELS.keys() - {"llava"}):  # whose inputs cannot be guessed
        for what in STEPS:
            needs = {"rows": name not in ("vit", "dinov2"), "untie": name in TIED}
            needs["drop a layer"] = name != "t5 (two towers, tied)"  # it has two stacks of layers
            fits = needs.get(what, True)
            quick = (name, what) == ("llama tied", "two at once")
            if fits:
                found.append(pytest.param(name, what, marks=[] if quick else pytest.mark.slow))
    return found


@pytest.mark.parametrize(("name", "what"), asked())
def test_laws_hold_on_models_of_transformers(
    name: str, what: str, known: Registry, tmp_path: Path
) -> None:
    case = case_of(HfSource(path=str(save(name, tmp_path / "base", True))), STEPS[what], known)
    assert answers(case.patient())
    found = {check.name: check for check in hold(case)}
    assert {n: c.detail for n, c in found.items() if c.status == "failed"} == {}
    assert {n: c.detail for n, c in found.items() if c.status == "skipped"}.keys() <= SILENT
