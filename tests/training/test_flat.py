"""Optimizers on flat buffers move as torch's do, and have torch's state."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from surgery.recipe.train_form import OptimizerForm
from surgery.training.flat import Flat
from surgery.training.optimize import Group, clip, optimizer_of
from surgery.training.state import optimizer_state

SHAPES = [(3, 5), (7,), (2, 3, 4), (), (1, 9)]


def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Module()
    for number, shape in enumerate(SHAPES):
        dtype = torch.bfloat16 if number == 4 else torch.float32
        made.register_parameter(f"p{number}", nn.Parameter(torch.randn(shape).to(dtype)))
    return made


def groups(named: dict[str, nn.Parameter]) -> list[Group]:
    return [Group("one", ("p0", "p1", "p4"), 0.1, 0.01), Group("two", ("p2", "p3"), 0.01, 0.0)]


def plain(one: nn.Module, form: OptimizerForm) -> torch.optim.Optimizer:
    named = dict(one.named_parameters())
    listed: list[dict[str, Any]] = [
        {"params": [named[n] for n in g.names], "lr": g.lr, "weight_decay": g.weight_decay}
        for g in groups(named)
    ]
    if form.name == "sgd":
        return torch.optim.SGD(listed, momentum=form.momentum)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[form.name]
    return kind(listed, betas=form.betas, eps=form.eps, fused=True)


def grads(one: nn.Module, step: int, missing: str = "") -> None:
    for name, p in one.named_parameters():
        made = torch.Generator().manual_seed(step * 31 + int(name[1:]))
        p.grad = torch.randn(p.shape, generator=made).to(p.dtype)
        if name == missing:
            p.grad = None


FORMS = [
    OptimizerForm(name="adamw"),
    OptimizerForm(name="adam"),
    OptimizerForm(name="sgd", momentum=0.9),
    OptimizerForm(name="sgd"),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.name}-{form.momentum}")
def test_flat_buffers_move_as_torch_does(form: OptimizerForm) -> None:
    ours, theirs = model(), model()
    before = list(ours.parameters())
    flat = optimizer_of(dict(ours.named_parameters()), groups({}), form)
    torchs = plain(theirs, form)
    assert isinstance(flat, Flat)
    for step in range(5):
        grads(ours, step)
        grads(theirs, step)
        norm = clip(flat, 1.0)
        expected = nn.utils.clip_grad_norm_(list(theirs.parameters()), 1.0)
        assert norm == pytest.approx(float(expected), rel=1e-3)
        flat.step()
        torchs.step()
    assert all(p is q for p, q in zip(before, ours.parameters(), strict=True))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        half = p.dtype == torch.bfloat16
        torch.testing.assert_close(p, q, rtol=1e-2 if half else 1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.name}-{form.momentum}")
def test_the_state_of_flat_buffers_is_that_of_torch(form: OptimizerForm) -> None:
    ours, theirs = model(), model()
    flat = optimizer_of(dict(ours.named_parameters()), groups({}), form)
    torchs = plain(theirs, form)
    for one, optimizer in ((ours, flat), (theirs, torchs)):
        grads(one, 1)
        clip(optimizer, None)
        optimizer.step()
    states = [
        optimizer_state(optimizer, {id(p): n for n, p in one.named_parameters()})
        for one, optimizer in ((ours, flat), (theirs, torchs))
    ]
    assert states[0].keys() == states[1].keys()
    for name, values in states[0].items():
        kept = {k: v for k, v in states[1][name].items() if v is not None}
        assert values.keys() == kept.keys()
        for key, value in values.items():
            torch.testing.assert_close(value, kept[key].to(value.dtype), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.name}-{form.momentum}")
def test_flat_buffers_go_on_bit_by_bit(form: OptimizerForm) -> None:
    whole, again = model(), model()
    first = optimizer_of(dict(whole.named_parameters()), groups({}), form)
    for step in range(3):
        grads(whole, step)
        clip(first, None)
        first.step()
    second = optimizer_of(dict(again.named_parameters()), groups({}), form)
    assert isinstance(second, Flat)
    named = dict(again.named_parameters())
    with torch.no_grad():
        for name, p in whole.named_parameters():
            named[name].copy_(p)
    kept = deepcopy(optimizer_state(first, {id(p): n for n, p in whole.named_parameters()}))
    second.take({named[name]: values for name, values in kept.items()})
    for step in range(3, 6):
        for one, optimizer in ((whole, first), (again, second)):
            grads(one, step)
            clip(optimizer, 1.0)
            optimizer.step()
    assert all(
        torch.equal(p, q) for p, q in zip(whole.parameters(), again.parameters(), strict=True)
    )


def test_a_parameter_without_a_gradient_counts_as_zero() -> None:
    one = model()
    flat = optimizer_of(dict(one.named_parameters()), groups({}), OptimizerForm(name="sgd"))
    before = {n: p.detach().clone() for n, p in one.named_parameters()}
    grads(one, 0)
    clip(flat, None)
    grads(one, 0, missing="p2")
    clip(flat, None)
    flat.step()
    moved = {n for n, p in one.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"p0", "p1", "p3", "p4"}
