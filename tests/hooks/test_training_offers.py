"""Objectives and data sets of plugins: the good are taken, the bad are named and left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.hooks.registry import registry
from tests.hooks.fakes import distribution

HEAD = """
from typing import ClassVar
from pydantic import ConfigDict
from surgery.hooks.specs import hookimpl
from surgery.operate.data import Data
from surgery.operate.objective import Objective

class Goal(Objective):
    name: ClassVar[str] = "acme/goal"
    def encode(self, sample, patient, random): return {}
    def collate(self, encoded, patient): return {}
    def weight(self, batch): return 1.0
    def step(self, model, batch): ...

class Rows(Data):
    name: ClassVar[str] = "acme/rows"
    count: int = 3
    def open(self): return [{}] * self.count
"""


def given(site: Path, code: str, hook: str) -> list[str]:
    text = f"{HEAD}\n{code}\n@hookimpl\ndef {hook}(): return [Thing]\n"
    distribution(site, "acme", text)
    found = registry(environment={})
    return [str(f.error) for f in found.faults if f.distribution == "acme"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("class Thing: name = 'acme/x'", "no subclass of surgery.operate.objective.Objective"),
        ("Thing = Goal()", "is no class"),
        ("class Thing(Objective): name = 'acme/x'", "does not define collate, encode, step"),
        ("class Thing(Goal): name: ClassVar[str] = 'Acme X'", "has the name 'Acme X'"),
        ("class Thing(Goal): model_config = ConfigDict(extra='allow')", "extra='forbid'"),
        ("class Thing(Goal): better: ClassVar[dict] = {'loss': 'low'}", "write 'min' or 'max'"),
        ("Thing = Rows", "no subclass of surgery.operate.objective.Objective"),
    ],
)
def test_a_bad_objective_is_named(site: Path, code: str, reason: str) -> None:
    (fault,) = given(site, code, "surgery_objectives")
    assert reason in fault
    assert "surgery_objectives: item 0: expected an objective that keeps its contract" in fault
    assert registry(environment={}).names("objective").count("acme/x") == 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("class Thing(Data): name = 'acme/x'", "does not define open"),
        ("class Thing(Rows): model_config = ConfigDict(strict=False)", "switches off strict"),
        ("Thing = Goal", "no subclass of surgery.operate.data.Data"),
        ("Thing = 3", "is no class"),
    ],
)
def test_a_bad_data_set_is_named(site: Path, code: str, reason: str) -> None:
    (fault,) = given(site, code, "surgery_data")
    assert reason in fault
    assert "expected a data set that keeps its contract" in fault


def test_good_ones_are_offered_with_their_options(site: Path) -> None:
    assert given(site, "Thing = Rows", "surgery_data") == []
    found = registry(environment={})
    assert len(found.data("acme/rows")(count=5).open()) == 5
    assert found.offer("data", "acme/rows").plugin == ("acme", "1.0")
