"""A walk leaves a model exactly as it was, whatever a forward writes on modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.anatomy.rehearse import rehearse
from surgery.checks.invariants import run
from tests.resampler.kit import HOSTS, inputs


class Leaver(nn.Module):
    """Leaves on itself all that a forward can: a hook, an attribute, an entry, a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.cache, self.seen = nn.Linear(2, 2), {"a": 1}, None

    def forward(self, x: Tensor) -> Any:
        self.linear.register_forward_hook(lambda module, given, out: None)
        self.seen, self.cache["b"], self.more = x, 2, 3
        return self.linear(x)


def left(model: nn.Module) -> list[Any]:
    """Give what modules are and hold, by identity."""
    return [
        (path, type(module), key, id(value), list(value.items()) if isinstance(value, dict) else 0)
        for path, module in model.named_modules()
        for key, value in vars(module).items()
    ]


def test_what_a_forward_leaves_on_modules_is_taken_away() -> None:
    model = Leaver()
    before = left(model)
    surgery.walk(model, {"x": torch.zeros(1, 2)})
    assert left(model) == before
    run(model, {"x": torch.zeros(1, 2)})
    assert left(model) == before
    model.to("meta")
    before = left(model)
    assert not rehearse(model, {"x": torch.zeros(1, 2)}).failure
    assert left(model) == before


@pytest.mark.parametrize("host", sorted(HOSTS))
def test_a_vision_language_model_keeps_no_hook_of_a_walk(host: str) -> None:
    model = HOSTS[host]()
    before = left(model)
    surgery.walk(model, inputs(host, 16))
    assert left(model) == before
