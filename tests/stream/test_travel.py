"""Laws of values on their way: what any surgery computes, another process computes too."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

import surgery
from surgery.flow.jobs import pack
from surgery.hooks.registry import registry
from surgery.operate.edits import Derive, Init
from surgery.operate.fill import read_live
from surgery.operate.slots import compute
from tests.stream.examples import EXAMPLES, KEEPING, example


def test_no_example_is_of_a_surgery_that_is_gone() -> None:
    assert set(EXAMPLES) <= set(registry().names("surgery"))


@pytest.mark.parametrize("name", registry().names("surgery"))
def test_values_of_every_surgery_travel_to_another_process(name: str) -> None:
    patient, steps = example(name)
    assert name in {step["use"] for step in steps}
    applied = surgery.apply(patient, steps)
    slots = [s for s in applied.operation.transaction.slots if isinstance(s.value, Init | Derive)]
    assert bool(slots) != (name in KEEPING)
    for slot in slots:
        old = [read_live(origin) for origin in slot.sources]
        form: Any = {"name": slot.name, "shape": slot.shape, "dtype": slot.dtype, "seed": 7}
        function, value = pickle.loads(pack(compute, slot.value, name).data)
        assert torch.equal(function(value, old, **form), compute(slot.value, old, **form))
