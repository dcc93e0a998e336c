"""Dropout follows the mode, and adapters can be switched while a model runs."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from surgery.errors import SelectionError
from surgery.operate.edits import HoldEval
from surgery.operate.patient import Patient
from surgery.operate.transaction import Transaction
from surgery_plugins.surgeries.lora import Lora
from surgery_plugins.surgeries.lora import adapters as switch
from tests.lora.kit import part, place, site, stir


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)).eval()


X = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


def dropping(layer: nn.Module) -> bool:
    torch.manual_seed(5)
    one = layer(X)
    torch.manual_seed(6)
    return not torch.equal(one, layer(X))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_dropout_is_active_only_in_training(dora: bool) -> None:
    layers = model()
    place(layers, [site(layers, "0")], Lora(rank=2, dropout=0.5, dora=dora))
    stir(layers)
    assert not dropping(layers)
    assert dropping(layers.train())
    assert not dropping(layers.eval())


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_dropout_leaves_evaluation_as_it_is_without(dora: bool) -> None:
    outs = []
    for dropout in (0.0, 0.5):
        layers = model()
        place(layers, [site(layers, "0")], Lora(rank=2, dropout=dropout, dora=dora))
        stir(layers)
        outs.append(layers(X))
    assert torch.equal(*outs)


@pytest.mark.parametrize("first", ["hold", "lora"])
def test_dropout_follows_training_where_the_base_is_held_in_eval_mode(first: str) -> None:
    layers = model()
    lora, where = Lora(rank=2, dropout=0.5), site(layers, "0")
    transaction = Transaction(Patient(layers))
    if first == "hold":
        transaction.place([HoldEval("0")], 0)
    other = place(layers, [where], lora)
    if first == "lora":
        transaction.place([HoldEval("0")], 1)
    stir(layers)
    layers.train()
    assert not layers[0].training
    assert dropping(layers)
    layers.eval()
    assert not dropping(layers)
    for one in (other, transaction) if first == "hold" else (transaction, other):
        one.rollback()
    assert type(layers[0]) is nn.Linear


def test_the_mean_under_dropout_is_the_output_without() -> None:
    layers = model().double()
    place(layers, [site(layers, "0")], Lora(rank=2, dropout=0.5))
    stir(layers)
    want = layers(X.double())
    layers.train()
    torch.manual_seed(0)
    mean = layers(X.double().expand(20000, 3, 6)).mean(0)
    torch.testing.assert_close(mean, want, rtol=0, atol=0.05)


def two() -> nn.Sequential:
    layers = model()
    where = site(layers, "0")
    rows = part(layers, "1", "attention.q", (0, 2))
    for name in ("one", "two"):
        place(layers, [where, replace(rows, direct=True)], Lora(rank=2, adapter=name))
    stir(layers)
    return layers


def test_adapters_have_names() -> None:
    assert switch.adapter_names(two()) == ("one", "two")
    assert switch.adapter_names(model()) == ()


def test_without_adapters_the_base_answers_and_afterwards_they_do() -> None:
    layers = two()
    before = layers(X)
    with switch.disabled(layers):
        assert torch.equal(layers(X), model()(X))
    assert torch.equal(layers(X), before)
    with pytest.raises(ZeroDivisionError), switch.disabled(layers):
        _ = 1 / 0
    assert torch.equal(layers(X), before)


def test_selecting_disabling_and_scaling_to_zero_agree() -> None:
    outs = []
    for turn in (
        lambda m: switch.select(m, ["one"]),
        lambda m: switch.disable(m, "two"),
        lambda m: switch.set_scale(m, "two", 0.0),
        lambda m: (switch.disable(m), switch.enable(m, "one")),
    ):
        layers = two()
        both = layers(X)
        turn(layers)
        outs.append(layers(X))
        assert not torch.equal(outs[-1], both)
        switch.enable(layers)
        switch.set_scale(layers, "two", 1.0)
        assert torch.equal(layers(X), both)
    assert all(torch.equal(outs[0], out) for out in outs[1:])


def test_a_scale_outlives_a_switch() -> None:
    layers = two()
    switch.set_scale(layers, "one", 0.5)
    scaled = layers(X)
    switch.select(layers, [])
    assert torch.equal(layers(X), model()(X))
    switch.enable(layers)
    assert torch.equal(layers(X), scaled)


def test_a_scale_multiplies_the_difference() -> None:
    layers = model().double()
    place(layers, [site(layers, "1")])
    stir(layers)
    x = X.double()
    full = layers(x)
    with switch.disabled(layers):
        base = layers(x)
    switch.set_scale(layers, "default", 0.25)
    torch.testing.assert_close(layers(x) - base, (full - base) / 4, rtol=0, atol=1e-12)


def test_switches_are_copied_and_do_not_touch_the_original() -> None:
    layers = two()
    before = layers(X)
    twin = copy.deepcopy(layers)
    switch.disable(twin)
    assert torch.equal(layers(X), before)
    assert torch.equal(copy.deepcopy(twin)(X), model()(X))


def test_switches_leave_no_trace_after_undo() -> None:
    layers = model()
    before = {path: (type(m), set(m.__dict__)) for path, m in layers.named_modules()}
    transaction = place(layers, [site(layers, "0")])
    switch.set_scale(layers, "default", 0.5)
    switch.disable(layers)
    transaction.rollback()
    assert {path: (type(m), set(m.__dict__)) for path, m in layers.named_modules()} == before


@pytest.mark.parametrize(
    "turn",
    [
        lambda m: switch.select(m, ["oen"]),
        lambda m: switch.enable(m, "oen"),
        lambda m: switch.disable(m, "oen"),
        lambda m: switch.set_scale(m, "oen", 1.0),
    ],
    ids=["select", "enable", "disable", "set_scale"],
)
def test_an_unknown_adapter_is_an_error_that_names_the_nearest(turn: object) -> None:
    with pytest.raises(SelectionError, match=r"got 'oen'; did you mean 'one'"):
        turn(two())  # type: ignore[operator]


def test_dropout_follows_the_module_again_when_it_is_held_no_more() -> None:
    layers = model()
    place(layers, [site(layers, "0")], Lora(rank=2, dropout=0.5))
    hold = Transaction(Patient(layers))
    hold.place([HoldEval("0")], 1)
    stir(layers)
    layers.train()
    hold.rollback()
    assert not dropping(layers.eval())
    assert dropping(layers.train())
