"""Adapters change nothing until they are trained, and then only what they may."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from surgery.anatomy.site import Site
from surgery_plugins.surgeries.lora import Lora
from tests.lora.kit import adapters, part, place, site, stir


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 10, 6))
        self.down = nn.Parameter(torch.randn(3, 10, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("eti,eoi->eto", x, self.up) @ self.down


@dataclass
class Case:
    name: str
    build: Callable[[], nn.Module]
    sites: Callable[[nn.Module], list[Site]]
    inputs: Callable[[], tuple[Any, ...]]
    dora: bool = True


def attention(q: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return q, q, q


X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(3))
IMAGE = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(3))
IDS = torch.tensor([[0, 3, 8], [1, 1, 0]])
CASES = [
    Case("linear", lambda: nn.Sequential(nn.Linear(6, 7)), lambda m: [site(m, "0")], lambda: (X,)),
    Case("Conv1D", lambda: nn.Sequential(Conv1D(7, 6)), lambda m: [site(m, "0")], lambda: (X,)),
    Case(
        "contiguous rows",
        lambda: nn.Sequential(nn.Linear(6, 18)),
        lambda m: [part(m, "0", "attention.q", (0, 6)), part(m, "0", "attention.v", (12, 18))],
        lambda: (X,),
    ),
    Case(
        "interleaved rows",
        lambda: nn.Sequential(nn.Linear(6, 18)),
        lambda m: [part(m, "0", "attention.q", (0, 3), (9, 12))],
        lambda: (X,),
    ),
    Case(
        "rows of a Conv1D",
        lambda: nn.Sequential(Conv1D(18, 6)),
        lambda m: [part(m, "0", "attention.q", (0, 6)), part(m, "0", "attention.v", (12, 18))],
        lambda: (X,),
    ),
    Case(
        "embedding",
        lambda: nn.Sequential(nn.Embedding(9, 6, padding_idx=0)),
        lambda m: [site(m, "0")],
        lambda: (IDS,),
    ),
    Case(
        "conv1d",
        lambda: nn.Sequential(nn.Conv1d(5, 6, 3, padding=1)),
        lambda m: [site(m, "0")],
        lambda: (X,),
    ),
    Case(
        "conv2d",
        lambda: nn.Sequential(nn.Conv2d(4, 6, (3, 1), stride=2, padding=1, dilation=(2, 1))),
        lambda m: [site(m, "0")],
        lambda: (IMAGE,),
    ),
    Case(
        "conv2d, reflected, padded to the same size",
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect")),
        lambda m: [site(m, "0")],
        lambda: (IMAGE,),
    ),
    Case(
        "conv2d in groups",
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False)),
        lambda m: [site(m, "0")],
        lambda: (IMAGE,),
    ),
    Case(
        "conv3d",
        lambda: nn.Sequential(nn.Conv3d(2, 6, 3)),
        lambda m: [site(m, "0")],
        lambda: (IMAGE.view(2, 2, 2, 9, 9).repeat(1, 1, 2, 1, 1),),
    ),
    Case(
        "experts",
        Experts,
        lambda m: [site(m, "up"), site(m, "down", out_axis=2, in_axis=1)],
        lambda: (torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(3)),),
        dora=False,
    ),
    Case(
        "multi-head attention",
        lambda: nn.MultiheadAttention(6, 2, batch_first=True),
        lambda m: [
            part(m, "in_proj_weight", "attention.q", (0, 6)),
            part(m, "in_proj_weight", "attention.v", (12, 18)),
            site(m, "out_proj"),
        ],
        lambda: attention(X),
    ),
    Case(
        "encoder layer",
        lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, dropout=0.0),
        lambda m: [site(m, "linear1"), site(m, "linear2"), site(m, "self_attn.out_proj")],
        lambda: (X,),
    ),
]
EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
DORA = pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])


def built(case: Case, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return case.build().eval().requires_grad_(False)


def run(model: nn.Module, case: Case) -> torch.Tensor:
    out = model(*case.inputs())
    return out[0] if isinstance(out, tuple) else out


def both_ways(model: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    """Run with every parameter trainable and without gradients: torch has other kernels then."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(True)
    outs = [model(*inputs)]
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
    with torch.no_grad():
        outs.append(model(*inputs))
    return [out[0] if isinstance(out, tuple) else out for out in outs]


def grown(case: Case, dora: bool, **options: Any) -> nn.Module:
    if dora and not case.dora:
        pytest.skip("refused, see test_refuse")
    model = built(case)
    place(model, case.sites(model), Lora(rank=2, dora=dora, **options))
    return model


@DORA
@EVERY
def test_outputs_are_bit_equal_before_training(case: Case, dora: bool) -> None:
    for kind in (torch.float32, torch.bfloat16):
        if kind is torch.bfloat16 and case.inputs()[0].dtype is torch.int64:
            continue
        model = built(case).to(kind)
        inputs = tuple(x if x.dtype is torch.int64 else x.to(kind) for x in case.inputs())
        before = both_ways(model, inputs)
        place(model, case.sites(model), Lora(rank=2, dora=dora and case.dora))
        for old, new in zip(before, both_ways(model, inputs), strict=True):
            assert torch.equal(old, new)
            assert old.dtype == new.dtype


@DORA
@EVERY
def test_every_adapter_tensor_learns(case: Case, dora: bool) -> None:
    model = grown(case, dora)
    optimizer = torch.optim.SGD(adapters(model).values(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        out = run(model, case)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        optimizer.step()
    assert len(adapters(model)) == (3 if dora else 2) * len(case.sites(built(case)))
    for name, parameter in adapters(model).items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None for n, p in model.named_parameters() if n not in adapters(model))


@DORA
@EVERY
def test_changed_adapters_change_the_outputs_with_and_without_gradients(
    case: Case, dora: bool
) -> None:
    base = run(built(case), case)
    model = grown(case, dora)
    stir(model)
    assert not torch.allclose(run(model, case), base, atol=1e-3)
    with torch.no_grad():
        assert not torch.allclose(run(model, case), base, atol=1e-3)


@EVERY
def test_base_names_stay_and_a_state_dict_returns(case: Case) -> None:
    model = grown(case, False)
    base = built(case).state_dict()
    stir(model)
    state = model.state_dict()
    assert set(state) - set(base) == set(adapters(model))
    assert all(torch.equal(state[name], tensor) for name, tensor in base.items())
    other = grown(case, False)
    other.load_state_dict(state, strict=True)
    assert torch.equal(run(other, case), run(model, case))


@EVERY
def test_a_copy_is_equal_and_its_own(case: Case) -> None:
    model = grown(case, False)
    stir(model)
    twin = copy.deepcopy(model)
    before = run(model, case)
    assert torch.equal(run(twin, case), before)
    stir(twin, seed=9)
    assert torch.equal(run(model, case), before)
    assert not torch.equal(run(twin, case), before)


@EVERY
def test_undo_gives_back_the_outputs_the_classes_and_the_attributes(case: Case) -> None:
    model = built(case)
    before = {path: (type(m), set(m.__dict__)) for path, m in model.named_modules()}
    out = run(model, case)
    transaction = place(model, case.sites(model))
    stir(model)
    transaction.rollback()
    assert torch.equal(run(model, case), out)
    assert {path: (type(m), set(m.__dict__)) for path, m in model.named_modules()} == before


@DORA
@pytest.mark.parametrize("kind", [nn.Linear, lambda i, o: Conv1D(o, i)], ids=["linear", "Conv1D"])
@pytest.mark.parametrize("ranges", [[(0, 6)], [(0, 3), (9, 12)], [(15, 18)]], ids=str)
def test_other_rows_keep_every_bit(kind: Any, ranges: Any, dora: bool) -> None:
    model = nn.Sequential(kind(6, 18))
    before = model(X)
    place(model, [part(model, "0", "attention.q", *ranges)], Lora(rank=2, dora=dora))
    stir(model)
    mine = torch.zeros(18, dtype=torch.bool)
    for start, stop in ranges:
        mine[start:stop] = True
    after = model(X)
    assert torch.equal(before[..., ~mine], after[..., ~mine])
    assert (before[..., mine] != after[..., mine]).all()
    assert set(adapters(model)) >= {"0.lora_default_q_A", "0.lora_default_q_B"}
    assert model[0].lora_default_q_B.shape == (int(mine.sum()), 2)


def test_values_do_not_depend_on_which_other_sites_are_listed() -> None:
    def values(*paths: str) -> torch.Tensor:
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        place(model, [site(model, path) for path in paths])
        return model[1].lora_default_A.detach()

    assert torch.equal(values("1"), values("0", "1"))
