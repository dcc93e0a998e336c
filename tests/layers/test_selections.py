"""Laws of selections of layers, for any stack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import surgery
from surgery.errors import SurgeryError
from surgery_plugins.surgeries.layers.order import (
    Block,
    dropped,
    expanded,
    kept,
    listed,
    repeated,
    told,
)
from tests.layers import models
from tests.layers.models import FULL, SLIDING, made
from tests.rope import kit

STACKS = st.integers(1, 12).flatmap(
    lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)).map(sorted))
)


@given(STACKS)
def test_dropping_and_keeping_part_a_stack(stack: tuple[int, list[int]]) -> None:
    count, chosen = stack
    both = [block.source for block in (*dropped(count, chosen), *kept(count, chosen))]
    assert sorted(both) == list(range(count))
    assert [block.source for block in kept(count, chosen)] == chosen


@given(STACKS)
def test_repeating_and_inserting_keep_all_and_put_the_new_behind(
    stack: tuple[int, list[int]],
) -> None:
    count, chosen = stack
    for make, new in ((repeated, False), (expanded, True)):
        order = make(count, chosen)
        assert len(order) == count + len(chosen)
        assert sorted(b.source for b in order) == sorted([*range(count), *chosen])
        behind = [n for n in range(1, len(order)) if order[n].source == order[n - 1].source]
        assert [order[n].source for n in behind] == chosen
        assert all(order[n] == Block(order[n].source, new) for n in behind)


@given(st.integers(1, 12), st.data())
def test_a_listed_order_is_that_order(count: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, count - 1), min_size=1))
    assert [block.source for block in listed(count, numbers)] == numbers
    assert [block.source for block in listed(count, [f"0-{count - 1}"])] == list(range(count))
    with pytest.raises(SurgeryError, match=f"layers from 0 to {count - 1}"):
        listed(count, [count])


@given(STACKS)
def test_what_is_told_names_every_place_once(stack: tuple[int, list[int]]) -> None:
    order = expanded(*stack)
    places: list[int] = []
    for line in told(order):
        word = line.partition(":")[0].split()[-1]
        first, _, last = word.partition("-")
        places += range(int(first), int(last or first) + 1)
    assert places == list(range(len(order)))


ORDERS = st.lists(st.integers(0, 3), min_size=1, max_size=6).filter(lambda o: o != [0, 1, 2, 3])
QUIET = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUIET
@given(ORDERS)
def test_any_order_carries_values_kinds_and_numbers_and_is_undone(order: list[int]) -> None:
    model = _model()
    before, kinds = kit.bits(model), [FULL, SLIDING, FULL, SLIDING]
    old = [layer.mlp.down_proj.weight for layer in model.model.layers]
    step: dict[str, Any] = {"use": "layers", "with": {"order": list(order)}}
    with surgery.apply(model, step):
        layers = model.model.layers
        assert model.config.num_hidden_layers == len(layers) == len(order)
        assert model.config.layer_types == [kinds[source] for source in order]
        assert [layer.self_attn.layer_idx for layer in layers] == list(range(len(order)))
        for layer, source in zip(layers, order, strict=True):
            assert torch.equal(layer.mlp.down_proj.weight, old[source])
            wanted = 3 if kinds[source] == SLIDING else None
            assert layer.self_attn.sliding_window == wanted
    assert kit.same_bits(before, kit.bits(model))
    assert model.config.layer_types == kinds


def _model() -> Any:
    return made(models.qwen3)
