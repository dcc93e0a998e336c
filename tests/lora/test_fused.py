"""A linear layer and its adapter as one function: what the plain form gives, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from surgery_plugins.surgeries.lora import Lora, fused, runtime
from surgery_plugins.surgeries.lora import adapters as switch
from tests.lora.kit import adapters, part, place, site, stir

Net = nn.Sequential


def net(dtype: torch.dtype = torch.float32, bias: bool = True, **lora: Any) -> Net:
    """Give two layers with an adapter each, the base frozen."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 8, bias), nn.GELU(), nn.Linear(8, 5, bias)).to(dtype)
    made.requires_grad_(False)
    place(made, [site(made, "0"), site(made, "2")], Lora(**{"rank": 3, "alpha": 5.0, **lora}))
    stir(made)
    return made


def inputs(dtype: torch.dtype = torch.float32, *front: int) -> Tensor:
    made = torch.randn(*(front or (2, 7)), 6, generator=torch.Generator().manual_seed(1))
    return made.to(dtype).requires_grad_()


def run(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Give outputs and gradients."""
    out = model(x)
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
    (out * weights).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert x.grad is not None
    found = {"out": out.detach(), "x": x.grad, **grads}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often the one function runs."""
    counted: list[int] = []

    def counting(*given: Any) -> Tensor:
        counted.append(1)
        return fused.fused_linear(*given)

    monkeypatch.setattr(runtime, "fused_linear", counting)
    return counted


def both(model: nn.Module, x: Callable[[], Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    plain = deepcopy(model)
    switch.set_fused(plain, False)
    return run(model, x()), run(plain, x())


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("front", [(2, 7), (3,), (), (2, 0)], ids=str)
def test_it_gives_what_the_plain_form_gives(
    calls: list[int], bias: bool, front: tuple[int, ...]
) -> None:
    def given() -> Tensor:
        made = torch.randn(*front, 6, generator=torch.Generator().manual_seed(1))
        return made.requires_grad_()

    ours, plain = both(net(bias=bias), given)
    assert len(calls) == 2
    assert ours.keys() == plain.keys()
    assert len(ours) == 6
    for name, tensor in plain.items():
        assert ours[name].dtype == tensor.dtype
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)


def test_with_b_zero_every_bit_is_that_of_the_base() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Linear(6, 8)).to(dtype)
        x = inputs(dtype)
        before = layer(x)
        layer.requires_grad_(False)
        place(layer, [site(layer, "0")], Lora(rank=2))
        assert torch.equal(layer(x), before)


def test_its_gradients_are_those_of_differences(calls: list[int]) -> None:
    layer = net(torch.float64, bias=True)[:1]
    layer[0].bias.requires_grad_(True)
    free = {name: p for name, p in layer.named_parameters() if p.requires_grad}

    def forward(x: Tensor, *given: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(free, given, strict=True)), (x,))

    given = (inputs(torch.float64), *free.values())
    assert torch.autograd.gradcheck(forward, given)
    assert torch.autograd.gradgradcheck(forward, given)
    assert calls


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    model = net()
    for name, p in adapters(model).items():
        p.requires_grad_(name.startswith("0.") and name.endswith("_A"))
    x = inputs().detach()
    model(x).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["0.lora_default_A"]


def distance(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    shares = [
        float((found[n].double() - exact[n]).norm() / exact[n].norm()) for n in exact if n != "out"
    ]
    return sum(shares) / len(shares)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("emulated", [True, False])
def test_halves_are_as_exact_as_in_the_plain_form(
    dtype: torch.dtype, emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_emulates", lambda: emulated)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 64), nn.Linear(64, 40)).to(dtype).requires_grad_(False)
    place(model, [site(model, "0"), site(model, "1")], Lora(rank=8, alpha=8.0))
    stir(model)
    x = torch.randn(64, 48, generator=torch.Generator().manual_seed(2)).to(dtype)
    exact = deepcopy(model).double()
    wanted = run(exact, x.double().requires_grad_())
    ours, plain = both(model, lambda: x.clone().requires_grad_())
    slack = 1.1 if emulated else 1.8  # the adapter is rounded to halves too, as PEFT's is there
    assert distance(ours, wanted) <= slack * distance(plain, wanted)


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16], ids=str)
def test_it_follows_autocast(calls: list[int], base: torch.dtype) -> None:
    model, x = net(base), inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
        assert len(calls) == 2
        assert out.dtype == torch.bfloat16
        out.float().sum().backward()
    exact = net(base).double()
    y = inputs(torch.float64)
    exact(y).sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=0.05, atol=0.05)
    for p, q in zip(model.parameters(), exact.parameters(), strict=True):
        if p.grad is not None and q.grad is not None:
            assert p.grad.dtype == p.dtype
            torch.testing.assert_close(p.grad.double(), q.grad, rtol=0.05, atol=0.1)


def test_layers_may_be_computed_again(calls: list[int]) -> None:
    plain = run(net(), inputs())

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.inner, x, use_reentrant=False)

    found = {name.removeprefix("inner."): t for name, t in run(Again(), inputs()).items()}
    assert len(calls) == 6
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())


@pytest.mark.slow
def test_it_is_compiled_without_a_break() -> None:
    plain = run(net(), inputs())
    model = net()
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = run(compiled, inputs())
    for name, tensor in plain.items():
        torch.testing.assert_close(found[name.replace("_orig_mod.", "")] if name in found
                                   else found[f"_orig_mod.{name}"], tensor)  # fmt: skip


def test_ddp_takes_its_gradients() -> None:
    plain = run(net(), inputs())
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(net())
        found = {n.removeprefix("module."): t for n, t in run(model, inputs()).items()}
    finally:
        dist.destroy_process_group()
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())


def saved(model: nn.Module, x: Tensor) -> int:
    """Give the bytes that a forward keeps for the backward, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(x)
        total = sum(kept.values())
    assert out.requires_grad
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_keeps_no_more_than_peft(dtype: torch.dtype) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 64)).to(dtype).requires_grad_(False)
    theirs = inject_adapter_in_model(LoraConfig(r=4, target_modules=["0", "1"]), deepcopy(base))
    theirs = theirs.to(dtype)  # as with adapters in the base's dtype: the least that PEFT keeps
    place(base, [site(base, "0"), site(base, "1")], Lora(rank=4))
    x = torch.randn(32, 64).to(dtype).requires_grad_()
    assert saved(base, x) <= saved(theirs, x)


def unfit(kind: str) -> tuple[nn.Module, str]:
    model: Any = net(**{"dora": {"dora": True}, "dropout": {"dropout": 0.3}}.get(kind, {}))
    layer = model[0]
    if kind == "a base that is trained":
        layer.weight.requires_grad_(True)
    if kind == "a second adapter":
        place(model, [site(model, "0")], Lora(rank=2, adapter="other"))
    if kind == "some rows":
        model = nn.Sequential(nn.Linear(6, 8)).requires_grad_(False)
        place(model, [part(model, "0", "attention.q", (0, 4))], Lora(rank=2))
    if kind == "a computed weight":
        parametrize.register_parametrization(layer, "weight", nn.Identity())
    if kind == "a flag":
        switch.set_fused(model, False)
    return model, kind


@pytest.mark.parametrize(
    "kind",
    ["dora", "dropout", "a base that is trained", "a second adapter", "some rows",
     "a computed weight", "a flag"],
)  # fmt: skip
def test_the_plain_form_runs_where_more_is_asked_for(calls: list[int], kind: str) -> None:
    model, _ = unfit(kind)
    model.train()
    seen = len(calls)
    first = model[0]  # type: ignore[index]
    first(inputs())
    assert len(calls) == seen
