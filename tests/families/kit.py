"""Check a patient's contracts, and break one relation at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from surgery.flow.prove import violations
from surgery.hooks.registry import registry
from surgery.operate.family import Violation
from surgery.operate.patient import Patient

Break = Callable[[Any], object]


def broken(model: nn.Module, **inputs: Any) -> list[Violation]:
    """Give every broken contract of every installed family that knows a model."""
    return broken_of(Patient(model, config=getattr(model, "config", None), inputs=inputs or None))


def broken_of(patient: Patient) -> list[Violation]:
    found = list(violations(patient, registry().families()))
    assert found, "no family knows this model"
    for _, some in found:
        assert isinstance(some, list), some
    return [one for _, some in found if isinstance(some, list) for one in some]


def known_by(model: nn.Module) -> list[str]:
    """Give the families that know a model."""
    return [family.name for family in registry().families() if family.matches(model)]


def only(found: list[Violation], contract: str, where: str) -> Violation:
    """Give the one broken contract of a name at a place; there must be no second one of it."""
    (one,) = [v for v in found if v.contract == contract and v.where == where]
    return one


def image(*size: int) -> torch.Tensor:
    """Give an image on meta, ``(1, 3, height, width)``."""
    return torch.empty(1, 3, *size, device="meta")


def setting(path: str, value: Any) -> Break:
    """Set an attribute by its dotted path; numbers are items."""

    def apply(model: Any) -> None:
        *above, last = path.split(".")
        for name in above:
            model = model[int(name)] if name.isdigit() else getattr(model, name)
        if isinstance(model, nn.Module) and last in model._buffers:
            model._buffers[last] = value
        else:
            setattr(model, last, value)

    return apply
