"""Laws of claims: two steps that disagree are found, two that agree are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import pytest
from torch import nn

from surgery.anatomy.selector import Selector
from surgery.anatomy.site import Site
from surgery.errors import ConflictError
from surgery.operate.claims import Claims
from surgery.operate.edits import (
    Edit,
    Extend,
    Init,
    Keep,
    NewTensor,
    Place,
    Remove,
    Rewrite,
    SetConfig,
    SetTrainable,
)
from surgery.operate.patient import Patient
from surgery.operate.step import Step
from surgery.operate.surgery import Surgery


class First(Surgery):
    name: ClassVar[str] = "first"

    def refuse(self, site: Site) -> str | None:
        return None

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        return ()


class Second(First):
    name: ClassVar[str] = "second"


class Narrow(First):
    name: ClassVar[str] = "narrow"
    narrows: ClassVar[frozenset[str]] = frozenset(("first",))


def step(kind: type[First], number: int, overlap: bool = False) -> Step:
    return Step(kind(), Selector(), overlap=overlap, where=f"surgeries[{number}]")


TENSOR = NewTensor((1,), "float32", Init(lambda t, g: None))
ADAPTER = Extend("a.b", "x", lambda: None, None, {"x_A": TENSOR}, reads=("a.b.weight",))  # type: ignore[arg-type, return-value]
PLACE = Place("a", nn.Identity(), {})

CONTRADICTIONS = [
    (SetTrainable("a.w", True), SetTrainable("a.w", False)),
    (ADAPTER, SetTrainable("a.b.x_A", False)),
    (ADAPTER, Rewrite("a.b.weight", (2,), "float32", Keep("a.b.weight"))),
    (Rewrite("w", (2,), "float32", Keep("w")), Rewrite("w", (2,), "float32", Keep("w"))),
    (SetConfig("vocab_size", 3), SetConfig("vocab_size", 4)),
    (ADAPTER, PLACE),
    (ADAPTER, Remove("a.b")),
    (SetTrainable("a.w", True), PLACE),
]
AGREEMENTS = [
    (SetTrainable("a.w", True), SetTrainable("a.w", True)),
    (SetTrainable("a.w", True), SetTrainable("a.v", False)),
    (Rewrite("a.b.weight", (2,), "float32", Keep("a.b.weight")), ADAPTER),
    (SetConfig("vocab_size", 3), SetConfig("vocab_size", 3)),
    (PLACE, ADAPTER),
    (ADAPTER, Place("ab", nn.Identity(), {})),
]


@pytest.mark.parametrize(("one", "two"), CONTRADICTIONS)
def test_contradictions_are_errors_that_name_both_steps(one: Edit, two: Edit) -> None:
    claims = Claims()
    claims.add(step(First, 0), [one])
    with pytest.raises(ConflictError, match=r"surgeries\[1\] \(second\).*surgeries\[0\] \(first\)"):
        claims.add(step(Second, 1), [two])


@pytest.mark.parametrize(("one", "two"), CONTRADICTIONS)
def test_a_step_that_says_so_may_override(one: Edit, two: Edit) -> None:
    claims = Claims()
    claims.add(step(First, 0), [one])
    claims.add(step(Second, 1, overlap=True), [two])
    claims = Claims()
    claims.add(step(First, 0), [one])
    claims.add(step(Narrow, 1), [two])


@pytest.mark.parametrize(("one", "two"), AGREEMENTS)
def test_what_does_not_contradict_passes(one: Edit, two: Edit) -> None:
    claims = Claims()
    claims.add(step(First, 0), [one])
    claims.add(step(Second, 1), [two])


@pytest.mark.parametrize(("one", "two"), CONTRADICTIONS)
def test_one_step_may_claim_twice(one: Edit, two: Edit) -> None:
    only = step(First, 0)
    Claims().add(only, [one, two])


def test_a_narrowing_step_cannot_be_undone_in_silence_by_a_later_one() -> None:
    claims = Claims()
    claims.add(step(First, 0), [SetTrainable("w", False)])
    claims.add(step(Narrow, 1), [SetTrainable("w", True)])
    with pytest.raises(ConflictError, match=r"surgeries\[1\] \(narrow\)"):
        claims.add(step(First, 2), [SetTrainable("w", False)])
