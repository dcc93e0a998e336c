"""The built-in surgeries keep every law, by the examples that they state."""

from __future__ import annotations

import re
from typing import Any

import pytest

from surgery.hooks.registry import Registry, registry
from surgery.testing import ZOO, judged, surgeries_of, trials, zoo_sources
from surgery.testing.trial import FITS, OF_CLASSES, Patients, Trial
from tests.laws.patients import MAKERS, of_transformers

NEEDY = {"tokens", "rope", "resampler", "swap", "pos_embed"}
"""What operates on models of transformers alone, as it asks for their parts."""

BUILT_IN = surgeries_of(registry(), ["model-surgery"])
ALL = [
    *trials([one for one in BUILT_IN if one.name not in NEEDY], ZOO),
    *trials([one for one in BUILT_IN if one.name in NEEDY], [*ZOO, *MAKERS]),
]
QUICK = {
    ("lora[0]", "split"), ("merge[0]", "grouped"), ("unfuse[0]", "fused"), ("untie[0]", "tied"),
}  # fmt: skip

WHY = re.compile(
    r"refused: "
    r"|.* does not promise it"
    r"|the steps are not independent"
    r"|one step has no order"
    r"|not from files alone"
    r"|.*loads as a plain model"
)
"""Reasons for which a law may say nothing."""


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Patients:
    zoo: dict[str, Any] = dict(zoo_sources(tmp_path_factory.mktemp("conformance-zoo")))
    return zoo | of_transformers(tmp_path_factory.mktemp("conformance"))


def groups() -> list[Any]:
    """Give the trials of each example on each patient, slow but for a few."""
    found: dict[tuple[str, str], list[Trial]] = {}
    for trial in ALL:
        if trial.patient:
            found.setdefault((trial.subject, trial.patient), []).append(trial)
    return [
        pytest.param(own, id=" on ".join(key), marks=[] if key in QUICK else pytest.mark.slow)
        for key, own in found.items()
    ]


@pytest.mark.parametrize("own", groups())
def test_an_example_keeps_every_law(own: list[Trial], patients: Patients, known: Registry) -> None:
    found = [judged(trial, patients, known) for trial in own]
    wrong = [one for one in found if one.status not in ("passed", "skipped")]
    wrong += [one for one in found if one.status == "skipped" and not WHY.match(one.detail)]
    assert wrong == []


@pytest.mark.parametrize("trial", [one for one in ALL if one.law in OF_CLASSES],
                         ids=lambda trial: f"{trial.subject}: {trial.law}")  # fmt: skip
def test_each_class_is_documented(trial: Trial, patients: Patients, known: Registry) -> None:
    found = judged(trial, patients, known)
    assert found.status == "passed", found.detail


@pytest.mark.slow
@pytest.mark.parametrize(
    "trial", [one for one in ALL if one.law == FITS], ids=lambda trial: trial.subject
)
def test_each_example_operates_on_some_patient(
    trial: Trial, patients: Patients, known: Registry
) -> None:
    found = judged(trial, patients, known)
    assert found.status == "passed", found.detail


def test_what_is_quick_is_there() -> None:
    assert {(trial.subject, trial.patient) for trial in ALL} >= QUICK
