"""Stories to tell: of tiny models on meta, with a training made up, by strangers or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgery.anatomy.selector import selector_of
from surgery.anatomy.walk import walk
from surgery.checks.check import Check
from surgery.hooks.registry import registry
from surgery.operate.operation import Operation, operate
from surgery.operate.patient import Patient
from surgery.operate.step import Step
from surgery.report.html.anatomy import Diagram
from surgery.report.html.marks import marks_after, marks_before
from surgery.report.html.metrics import read_metrics
from surgery.report.html.place import Place
from surgery.report.html.plan import tables_of
from surgery.report.html.story import Story
from surgery.report.shares import shares_of

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\x1b[31m'\"&\u202e"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Any) -> Any:
        return x + self.down(torch.relu(self.up(x)))


def model(odd: str = "") -> nn.Module:
    """Give five layers and a head; one more module whose name a stranger chose."""
    with torch.device("meta"):
        made = nn.Sequential()
        made.add_module("layers", nn.Sequential(*(Block() for _ in range(5))))
        made.add_module(odd.replace(".", "") or "neck", nn.Linear(8, 8))
        made.add_module("head", nn.Linear(8, 4))
    return made


def operated(odd: str = "") -> tuple[Diagram, Operation]:
    """Freeze all and put LoRA on two of the five layers."""
    known, inputs = registry(), {"input": torch.empty(2, 8, device="meta")}
    before = model(odd)
    steps = [
        ("freeze", {"path": "**"}, {}),
        ("lora", {"path": "layers.*.up", "layers": "1-2"}, {"rank": 2}),
    ]
    made = [
        Step(
            known.surgery(use).model_validate(options), selector_of(at, "at"),
            where=f"surgeries[{n}]", plugin=("acme", "1.0"),
        )
        for n, (use, at, options) in enumerate(steps)
    ]  # fmt: skip
    operation = operate(Patient(model(odd), inputs=inputs), made)
    return Diagram(walk(before, inputs), shares_of(before)), operation


def records(folder: Path, group: str = "lora", count: int = 30) -> Path:
    """Write what a training might have written."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[Mapping[str, Any]] = [
        {"begun": {"output": "../out", "device": "cpu", "processes": 1, "versions": {}}}
    ]
    for n in range(1, count + 1):
        lines.append({
            "step": n, "loss": 3.0 / n, "norm": 1.0 / n, "norms": {group: 0.5 / n, "head": 0.4 / n},
            "moved": {group: 1e-2 / n, "head": 1e-3}, "lr": {group: 1e-3 / n, "head": 1e-4},
            "seconds": 0.1, "samples": 4, "memory": 2**30, f"accuracy {group}": n / count,
        })  # fmt: skip
    lines += [
        {"step": count, "evaluation": {"loss": 0.2, "accuracy": 0.9}}, {"failed": 3, "why": group},
        {"remark": f"moved: {group}"}, {"ended": {"how": "done", "checks": []}},
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def story(folder: Path, odd: str = "") -> Story:
    """Give a story in which everything that can be told is told."""
    run = records(folder / "run", odd or "lora")
    before, operation = operated(odd)
    plan, patient = operation.plan, operation.patient
    anatomy = walk(patient.model, patient.inputs)
    return Story(
        Place(None, run, read_metrics(run / "metrics.jsonl")),
        Diagram(before.anatomy, before.shares, marks_before(plan, before.anatomy)),
        Diagram(anatomy, shares_of(patient.model), marks_after(plan, anatomy)),
        tables_of(plan),
        (Check("digests", "passed", odd), Check("base", "failed", odd), Check("a", "skipped")),
        recipe=f"recipe: 1\n# {odd}\n",
        files={odd or "a.safetensors": {"size": 5, "sha256": "0" * 64}},
        notes=(odd or "a note",),
    )  # fmt: skip
