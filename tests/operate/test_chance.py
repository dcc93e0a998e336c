"""Torch's own generator is lent to one thread at a time, and is afterwards as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgery.operate.chance import seeded
from surgery_plugins.surgeries.attach.fresh import Fresh
from surgery_plugins.surgeries.head.drawn import Drawn


class Linear:
    name = "linear"

    def build(self, features: int) -> nn.Module:
        return nn.Sequential(nn.Linear(features, 3), nn.Linear(3, 2))


def by_seed(seed: int) -> Tensor:
    with seeded(seed):
        return torch.cat([torch.randn(7) for _ in range(20)])


def by_head(seed: int) -> Tensor:
    made = torch.empty(9, 5)
    with torch.device("meta"):
        module = nn.Linear(5, 9)
    Drawn("x.weight", module)(made, torch.Generator().manual_seed(seed))
    return made


def by_attachment(seed: int) -> Tensor:
    made, kind = torch.empty(2, 3), Linear()
    Fresh(kind, 5, "1.weight")(made, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("draw", [by_seed, by_head, by_attachment])
def test_threads_draw_what_one_draws(draw: Any) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    wanted = [draw(seed) for seed in range(100)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(draw, list(range(100)) * 4))
    assert all(torch.equal(one, wanted[n % 100]) for n, one in enumerate(found))
    assert torch.equal(torch.get_rng_state(), before)


def test_it_can_be_asked_for_within() -> None:
    with seeded(1):
        first = torch.randn(3)
        by_seed(2)
        second = torch.randn(3)
    with seeded(1):
        assert torch.equal(torch.randn(6)[3:], second)
    assert torch.equal(by_seed(1)[:3], first)
