"""Every law, for compositions of the built-in surgeries on every breed of the zoo."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from surgery.hooks.registry import Registry
from surgery.testing import LAWS, ZOO, Case, ZooSource, case_of, compositions, held, hold
from surgery.testing.draw import steps_of_names
from tests.laws.menu import menu

Sources = dict[tuple[str, str], ZooSource]

CALM = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
FEW = settings(max_examples=5, deadline=None, derandomize=True, database=None,
               suppress_health_check=CALM)  # fmt: skip
MANY = settings(max_examples=10, deadline=None, suppress_health_check=CALM)

UNPLAIN = {
    "cast", "cast a part", "drop a layer", "insert a layer", "order layers", "labels", "channels",
    "grid", "untie",
}  # fmt: skip
"""What gives a model that a breed's own builder does not build, so that no plain one is written."""

INDEPENDENT: dict[str, tuple[str, ...]] = {
    breed: ("lora on convolutions", "labels")
    if breed == "convolutional"
    else ("lora on layer 0", "freeze layer 1", "train rows")
    for breed in ZOO
}


QUICK = ("fused", "tied", "experts", "convolutional")


@st.composite
def drawn(draw: Any) -> tuple[str, str, tuple[str, ...], int]:
    """Draw a breed, a dtype, what is done, and a seed."""
    breed = draw(st.sampled_from(sorted(ZOO)))
    dtype = draw(st.sampled_from(["float32", "bfloat16"]))
    return breed, dtype, tuple(draw(compositions(menu(breed)))), draw(st.integers(0, 3))


def case(
    sources: Sources, known: Registry, breed: str, names: Any, dtype: str = "float32", **more: Any
) -> Case:
    steps = steps_of_names(menu(breed), names)
    return case_of(sources[breed, dtype], steps, known, **more)


def check_law(law: str, sources: Sources, known: Registry, asked: Any, device: str = "cpu") -> None:
    breed, dtype, names, seed = asked
    found = held(law, case(sources, known, breed, names, dtype, seed=seed, device=device))
    event(f"{law}: {found.status}")
    assert found.status != "failed", (breed, names, found.detail)


@pytest.mark.parametrize("law", LAWS)
def test_laws_hold_for_compositions(law: str, sources: Sources, known: Registry) -> None:
    @FEW
    @given(drawn())
    def check(asked: Any) -> None:
        check_law(law, sources, known, asked)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("law", LAWS)
def test_laws_hold_for_many_compositions(
    law: str, device: str, sources: Sources, known: Registry
) -> None:
    @MANY
    @given(drawn())
    def check(asked: Any) -> None:
        check_law(law, sources, known, asked, device)

    check()


@pytest.mark.parametrize(
    "breed",
    [breed if breed in QUICK else pytest.param(breed, marks=pytest.mark.slow) for breed in ZOO],
)
def test_independent_surgeries_keep_every_law(
    breed: str, sources: Sources, known: Registry
) -> None:
    found = {check.name: check for check in hold(case(sources, known, breed, INDEPENDENT[breed]))}
    changed = {"identity at init", "live equals streaming, whole"}
    silent = changed if breed == "convolutional" else set()
    wrong = {n: c.detail for n, c in found.items() if c.status != "passed" and n not in silent}
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("breed", "name", "dtype"),
    [
        (breed, name, dtype)
        for breed in ZOO
        for name in menu(breed)
        for dtype in (("float32", "bfloat16") if breed in QUICK else ("float32",))
    ],
)
def test_each_surgery_keeps_every_law(
    breed: str, name: str, dtype: str, sources: Sources, known: Registry
) -> None:
    asked = case(sources, known, breed, [name], dtype)
    found = {check.name: check for check in hold(asked)}
    silent = {"order of independent surgeries does not matter"}
    silent |= {"live equals streaming, whole"} if name in UNPLAIN else set()
    if any(step.surgery.at_init == "changed" for step in asked.steps):
        silent.add("identity at init")
    wrong = {n: c.detail for n, c in found.items() if c.status != "passed" and n not in silent}
    assert wrong == {}
    assert not [name for name in silent if found[name].status == "failed"]


@pytest.mark.slow
@pytest.mark.parametrize("breed", ZOO)
def test_devices_are_kept(breed: str, sources: Sources, known: Registry) -> None:
    import torch

    for device in ("cpu", "meta", *(["cuda"] if torch.cuda.is_available() else [])):
        for name in menu(breed):
            asked = case(sources, known, breed, [name], device=device)
            found = held("dtype and device kept", asked)
            assert found.status == "passed", (device, name, found.detail)
            assert device in found.detail
