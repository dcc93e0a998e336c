"""Each law is broken by a surgery that deserves it: a law that cannot fail is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor

from surgery.anatomy.selector import Selector
from surgery.anatomy.site import Site
from surgery.hooks.discover import Plugin
from surgery.hooks.registry import Registry
from surgery.hooks.specs import hookimpl
from surgery.operate.behaviour import Behaviour
from surgery.operate.edits import (
    Derive,
    Edit,
    Extend,
    Init,
    NewTensor,
    Place,
    Rewrite,
    SetTrainable,
)
from surgery.operate.patient import Patient
from surgery.operate.surgery import Surgery
from surgery.testing import LAWS, ZooSource, case_of, held

Sources = dict[tuple[str, str], ZooSource]
Q = Selector(path=("layers.0.attention.q_proj",))
V = Selector(path=("layers.1.attention.v_proj",))
HEAD = Selector(path=("head",))
COUNT = count(1)
ORDER = "order of independent surgeries does not matter"


class _Plain(Surgery):
    def refuse(self, site: Site) -> str | None:
        return None


class Quiet(Behaviour):
    """Do what the module does."""


class InPlace(_Plain):
    """Change a weight behind the core's back."""

    name: ClassVar[str] = "in-place"

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        patient.model.get_parameter("head.weight").data.mul_(2)
        return [SetTrainable(f"{site.path}.weight", False) for site in sites]


class Liar(_Plain):
    """Promise that outputs are equal, and scale a weight."""

    name: ClassVar[str] = "liar"
    identity_at_init: ClassVar[bool] = True

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        for site in sites:
            yield Rewrite(f"{site.path}.weight", site.shape, "float32", Derive(
                (f"{site.path}.weight",), lambda old, generator: old * 1.5))  # fmt: skip


class OtherOnMeta(_Plain):
    """Plan something else than what is done."""

    name: ClassVar[str] = "other-on-meta"

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        for site in sites:
            weight = patient.model.get_parameter(f"{site.path}.weight")
            yield SetTrainable(f"{site.path}.weight", trainable=weight.is_meta)


class OtherEachTime(_Plain):
    """Do something else each time."""

    name: ClassVar[str] = "other-each-time"

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        for site in sites:
            yield SetTrainable(f"{site.path}.weight", trainable=next(COUNT) % 2 == 0)


def _counted(tensor: Tensor, generator: Generator) -> None:
    tensor.fill_(next(COUNT))


class Unseeded(_Plain):
    """Draw values that depend on what was drawn before."""

    name: ClassVar[str] = "unseeded"

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        for site in sites:
            new = NewTensor((3,), "float32", Init(_counted))
            yield Extend(site.path, "more", Quiet.here, tensors={"more": new})


class Double(_Plain):
    """Add numbers of another dtype than anything in the model has."""

    name: ClassVar[str] = "double"

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        for site in sites:
            new = NewTensor((3,), "float64", Init(lambda t, g: t.zero_()))
            yield Extend(site.path, "more", Quiet.here, tensors={"more": new})


class Elsewhere(_Plain):
    """Freeze what nobody selected."""

    name: ClassVar[str] = "elsewhere"

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        return [SetTrainable("norm.weight", trainable=False)]


class Replace(_Plain):
    """Put another module in the place of one, and forget that its weight was tied."""

    name: ClassVar[str] = "replace"

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        for site in sites:
            rows, width = site.shape
            new = torch.nn.Linear(width, rows, bias=False, device="meta")
            same = Derive((f"{site.path}.weight",), lambda old, generator: old.clone())
            yield Place(site.path, new, {"weight": same}, frozenset(("weight",)))


class Crash(_Plain):
    """Break by a mistake of its own."""

    name: ClassVar[str] = "crash"

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        raise KeyError("a mistake of its own")


class Mute(_Plain):
    """Refuse without a word."""

    name: ClassVar[str] = "mute"

    def refuse(self, site: Site) -> str | None:
        return ""

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        return [SetTrainable(f"{site.path}.weight", False) for site in sites]


class Rude(Mute):
    """Refuse by an error of its own."""

    name: ClassVar[str] = "rude"

    def refuse(self, site: Site) -> str | None:
        return None if site.parameter else str(1 / 0)


KINDS = (
    Mute,
    Rude,
    InPlace,
    Liar,
    OtherOnMeta,
    OtherEachTime,
    Unseeded,
    Double,
    Elsewhere,
    Replace,
    Crash,
)


class _Hooks:
    @hookimpl
    def surgery_surgeries(self) -> Sequence[type[Surgery]]:
        return KINDS


@pytest.fixture(scope="module")
def breakers(known: Registry) -> Registry:
    return known.with_plugins([Plugin("breakers", "1", "breakers", _Hooks())])


@pytest.mark.parametrize(
    ("law", "breed", "steps"),
    [
        ("plan equals apply", "split", [(OtherOnMeta(), Q)]),
        ("identity at init", "split", [(Liar(), Q)]),
        ("undo gives exact bits", "split", [(InPlace(), Q)]),
        ("refusal leaves no trace", "split", [(InPlace(), Q)]),
        ("replay equals original", "split", [(OtherEachTime(), Q)]),
        ("live equals streaming", "split", [(Unseeded(), Q)]),
        ("live equals streaming, whole", "split", [(Unseeded(), Q)]),
        (ORDER, "split", [(Unseeded(), Q), (Unseeded(), V)]),
        ("ties survive", "tied", [(Replace(), HEAD)]),
        ("dtype and device kept", "split", [(Double(), Q)]),
        ("nothing touched outside its sites", "split", [(Elsewhere(), Q)]),
        ("nothing touched outside its sites", "split", [(InPlace(), Q)]),
        ("refuses cleanly", "split", [(Mute(), Q)]),
        ("refuses cleanly", "split", [(Rude(), Q)]),
        ("undo gives exact bits", "split", [(Crash(), Q)]),
        ("refusal leaves no trace", "split", [(Crash(), Q)]),
    ],
)  # fmt: skip
def test_a_law_fails_where_it_is_broken(
    law: str, breed: str, steps: Any, sources: Sources, breakers: Registry
) -> None:
    found = held(law, case_of(sources[breed, "float32"], steps, breakers))
    assert (found.name, found.status) == (law, "failed"), found.detail


def test_every_law_is_broken_here() -> None:
    broken = test_a_law_fails_where_it_is_broken.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {law for law, _, _ in broken} == set(LAWS)


@pytest.mark.parametrize("law", LAWS)
def test_a_refusal_breaks_no_law_and_is_told(law: str, sources: Sources, known: Registry) -> None:
    steps = [{"use": "lora", "at": {"path": "norm"}, "with": {"rank": 2}}]
    found = held(law, case_of(sources["split", "float32"], steps, known))
    wanted = "passed" if law.startswith("refus") else "skipped"
    assert found.status == wanted
    if wanted == "skipped":
        assert "refused" in found.detail or "one step" in found.detail
