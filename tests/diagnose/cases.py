"""A look-alike of SAM 3's trunk in ways to break it, and surgeries that break things."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from surgery.anatomy.site import Site
from surgery.flow.diagnose import Diagnosis, diagnose
from surgery.flow.trials import Trial
from surgery.operate.behaviour import Behaviour
from surgery.operate.edits import Derive, Edit, Extend, Init, NewTensor, Rewrite
from surgery.operate.patient import Patient
from surgery.operate.surgery import Surgery
from tests.rope.lookalike import Trunk

FREEZE = {"use": "freeze"}
LORA = {"use": "lora", "at": {"path": "blocks.*.attn.qkv"}, "with": {"rank": 2, "alpha": 2}}


def trunk() -> Trunk:
    torch.manual_seed(0)
    return Trunk().eval()


def image(*size: int) -> dict[str, Tensor]:
    return {"x": torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))}


def tried(steps: Any, size: tuple[int, int] = (126, 126), model: Any = None) -> Diagnosis:
    return diagnose(model or trunk(), steps, inputs=image(*size))


def trial(found: Diagnosis, name: str) -> Trial:
    return next(one for one in found.trials if one.name == name)


class _Plain(Surgery):
    def refuse(self, site: Site) -> str | None:
        return None


class NaiveCast(_Plain):
    """Make complex tables real, as ``model.to(dtype)`` does, or as pairs, as replicas had them."""

    name: ClassVar[str] = "naive-cast"
    pairs: bool = False

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        for name, table in patient.model.named_buffers():
            if table.is_complex():
                shape = (*table.shape, 2) if self.pairs else tuple(table.shape)
                value = Derive((name,), self._real)
                yield Rewrite(name, shape, "float32", value)

    def _real(self, table: Tensor, generator: Any) -> Tensor:
        return torch.view_as_real(table) if self.pairs else table.real


class Poison(_Plain):
    """Put NaN into a weight."""

    name: ClassVar[str] = "poison"

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        for site in sites:
            name = f"{site.path}.weight"
            shape = tuple(patient.model.get_parameter(name).shape)
            yield Rewrite(name, shape, "float32", Init(lambda t, g: t.fill_(float("nan"))))


class Liar(_Plain):
    """Promise that outputs are equal, and scale a weight."""

    name: ClassVar[str] = "liar"
    identity_at_init: ClassVar[bool] = True

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        for site in sites:
            name = f"{site.path}.weight"
            shape = tuple(patient.model.get_parameter(name).shape)
            value = Derive((name,), lambda old, generator: old * 1.5)
            yield Rewrite(name, shape, "float32", value)


class Idle(Behaviour):
    """Hold a parameter and do nothing with it."""


class Cut(Behaviour):
    """Add a tensor's sum, cut off from what is learnt."""

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = super().forward(x)  # type: ignore[misc]
        return answer + 0.0 * self.extra.sum()  # type: ignore[attr-defined]


class Broken(Behaviour):
    """Answer by a gradient that is no number."""

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = super().forward(x)  # type: ignore[misc]
        return answer + (self.extra * 0.0).sum().sqrt()  # type: ignore[attr-defined]


class Extra(_Plain):
    """Add a parameter that learns nothing, in one of three ways."""

    name: ClassVar[str] = "extra"
    identity_at_init: ClassVar[bool] = True
    way: str = "idle"

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        kind: Any = {"idle": Idle, "cut": Cut, "broken": Broken}[self.way]
        for site in sites:
            new = NewTensor((3,), "float32", Init(lambda t, g: t.fill_(1.0)))
            yield Extend(site.path, "extra", kind.here, tensors={"extra": new})


class Halves(nn.Module):
    """Run a copy on each half of a batch, as two replicas would.

    Args:
        model: what is copied.
        real: True to turn complex buffers of the copies into pairs, as nn.DataParallel did before
            torch 2.11.
    """

    def __init__(self, model: nn.Module, real: bool) -> None:
        super().__init__()
        self.model, self.real = model, real

    def forward(self, x: Tensor) -> Tensor:
        held = {n: b for n, b in self.model.named_buffers() if b.is_complex()}
        try:
            for name, table in held.items() if self.real else ():
                self._set(name, torch.view_as_real(table))
            return torch.cat([self.model(part) for part in x.chunk(2)])
        finally:
            for name, table in held.items():
                self._set(name, table)

    def _set(self, name: str, table: Tensor) -> None:
        path, _, leaf = name.rpartition(".")
        self.model.get_submodule(path)._buffers[leaf] = table


def bits(model: nn.Module) -> dict[str, Tensor]:
    return deepcopy(model.state_dict())
