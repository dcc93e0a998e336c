"""The numbers; the laws run by ``--surgery-conformance``."""

from __future__ import annotations

import torch

import surgery
from surgery.testing import patient

STEP = {"use": "example/gain", "at": {"role": "mlp.down"}}
LAYER = "layers.0.mlp.down_proj"


def test_a_layer_gives_its_output_times_the_gain() -> None:
    model = patient("split").model
    layer, x = model.get_submodule(LAYER), torch.randn(2, 12)
    before = layer(x)
    with surgery.apply(model, STEP):
        assert torch.equal(layer(x), before)
        with torch.no_grad():
            model.get_parameter(f"{LAYER}.gain").fill_(3.0)
        assert torch.allclose(layer(x), before * 3)
    assert torch.equal(layer(x), before)


def test_gains_take_gradients_where_they_should() -> None:
    for wanted in (True, False):
        model = patient("split").model
        with surgery.apply(model, {**STEP, "with": {"trainable": wanted}}):
            assert model.get_parameter(f"{LAYER}.gain").requires_grad is wanted
