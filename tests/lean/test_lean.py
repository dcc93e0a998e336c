"""Layers that keep less for the backward pass: the same bits, and less that is held."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import surgery
from bench.lora_step import held, layers, ours
from surgery.errors import RefusedError, SurgeryError
from surgery_plugins.surgeries.lean.runtime import LeanGate, LeanLayer, LeanNorm
from tests.layers import models
from tests.layers.models import logits
from tests.training.test_run import equal

NAMES = [
    "llama", "qwen3", "gemma3", "qwen2_moe", "mixtral", "gpt2", "t5", "bart", "vit", "clip", "bert",
]  # fmt: skip
LEAN = {"use": "lean"}
LORA = {
    "use": "lora", "at": {"role": ["attention.q", "attention.proj", "mlp.up", "mlp.down"]},
    "with": {"rank": 2, "init": "gaussian"},
}  # fmt: skip


def made(name: str, *steps: Any) -> nn.Module:
    model = models.made(getattr(models, name))
    if steps:
        surgery.apply(model, list(steps))
    return model


def lean(model: nn.Module) -> nn.Module:
    surgery.apply(model, LEAN)
    return model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def step(model: nn.Module, times: int = 1) -> dict[str, Tensor]:
    """Give the answer and all gradients."""
    model.zero_grad(set_to_none=True)
    out = logits(model)
    loss = (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum()
    for number in range(times):
        loss.backward(retain_graph=number + 1 < times)
    found = gradients(model)
    assert found
    return {"out": out.detach(), **found}


def kinds(model: nn.Module, kind: type) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, kind)]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_all_gradients_have_the_same_bits(name: str) -> None:
    wanted, adapted = step(made(name)), step(made(name, LORA))
    for steps in ([LEAN], [LORA, LEAN], [LEAN, LORA]):
        model = made(name, *steps)
        assert kinds(model, LeanLayer)
        assert kinds(model, LeanNorm)
        assert equal(step(model), wanted if LORA not in steps else adapted), steps


@pytest.mark.parametrize(
    ("name", "count"), [("llama", 4), ("qwen3", 4), ("gemma3", 4), ("qwen2_moe", 4), ("bert", 0)]
)
def test_gated_mlps_are_known_by_what_they_compute(name: str, count: int) -> None:
    model = lean(made(name))
    assert len(kinds(model, LeanGate)) == count
    assert all(path.endswith(("mlp", "shared_expert")) for path in kinds(model, LeanGate))


def test_finding_gates_draws_nothing_from_the_generator_of_all() -> None:
    model = made("llama")
    before = torch.get_rng_state()
    assert kinds(lean(model), LeanGate)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_adapters_in_lean_layers_hold_less_than_the_frozen_base(kind: torch.dtype) -> None:
    def small() -> nn.Module:
        return layers(64, kind, 2)

    x = torch.randn(1, 96, 64, generator=torch.Generator().manual_seed(0)).to(kind)
    base, adapted = held(small(), x), held(ours(small()), x)
    assert held(lean(small()), x) < 0.9 * base
    assert held(lean(ours(small())), x) < 0.95 * base < adapted


def test_nothing_of_a_step_is_held_after_it() -> None:
    model = lean(ours(layers(64, torch.float32)))
    x = torch.randn(1, 96, 64)
    before = held(model, x)
    out = model(inputs_embeds=x, use_cache=False).last_hidden_state
    out.sum().backward()
    del out
    assert held(model, x) == before


def test_a_graph_that_is_kept_gives_the_same_gradients_again() -> None:
    assert equal(step(made("llama", LORA, LEAN), times=3), step(made("llama", LORA), times=3))


def test_autocast_is_as_in_the_forward_pass() -> None:
    found = []
    for steps in ([LORA], [LORA, LEAN]):
        model = made("llama", *steps)
        with torch.autocast("cpu", torch.bfloat16):
            out = logits(model)
        out.float().square().sum().backward()  # outside of it
        found.append(gradients(model))
    assert equal(*found)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_decides_what_is_kept(reentrant: bool) -> None:
    found = []
    for steps in ([LORA], [LORA, LEAN]):
        model: Any = made("llama", *steps).train()
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        found.append((step(model), held(model.model, torch.randn(1, 40, 16))))
    assert equal(found[0][0], found[1][0])
    if not reentrant:
        assert found[1][1] == found[0][1]


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_with_and_without() -> None:
    found = []
    for steps in ([LORA], [LORA, LEAN]):
        torch._dynamo.reset()
        model: Any = made("llama", *steps)
        compiled = torch.compile(model.model, backend="aot_eager", fullgraph=True)
        out = compiled(input_ids=models.ids(), use_cache=False).last_hidden_state
        out.square().sum().backward()
        found.append(gradients(model))
    assert equal(*found)


def test_transforms_of_functions_see_a_model_as_it_is() -> None:
    def loss(model: nn.Module, weights: Any) -> Tensor:
        return torch.func.functional_call(model, weights, (torch.ones(1, 3, 4),)).square().sum()

    model = stack(lambda: Mlp("none"))
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    wanted = torch.func.grad(lambda given: loss(model, given))(weights)
    surgery.apply(model, LEAN, inputs={"x": torch.ones(1, 3, 4)})
    assert equal(torch.func.grad(lambda given: loss(model, given))(weights), wanted)


def test_what_is_given_more_than_a_tensor_runs_as_it_is() -> None:
    class Scaled(nn.LayerNorm):
        def forward(self, x: Tensor, by: float = 1.0) -> Tensor:
            return super().forward(x) * by

    class Scaling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.mlp = Scaled(4), Mlp("none")

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.mlp(x=x), by=2.0) + self.norm(x, 0.5)

    found = []
    for steps in ([], [LEAN]):
        model = stack(Scaling)
        if steps:
            surgery.apply(model, steps, inputs={"x": torch.ones(1, 3, 4)})
        x = torch.linspace(-1, 1, 12).view(1, 3, 4)
        model(x).square().sum().backward()
        found.append(gradients(model))
    assert equal(*found)


class Layer(nn.Module):
    """A layer with whatever is inside it, and a sum around it."""

    def __init__(self, inner: nn.Module, after: Any = None) -> None:
        super().__init__()
        self.norm, self.inner, self.after = nn.LayerNorm(4), inner, after

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(self.norm(x))
        return x + y if self.after is None else self.after(x, y)


class Mlp(nn.Module):
    """A gated MLP, but for one change."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.change = change
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 4)
        self.act = nn.PReLU() if change == "act" else nn.SiLU()
        if change == "dropout":
            self.drop = nn.Dropout(0.5)
        if change == "bias":
            self.more = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.a(x), self.b(x)
        inner = self.act(gate * up) if self.change == "order" else self.act(gate) * up
        return self.c(inner) * (0.5 if self.change == "scale" else 1.0)


class Stack(nn.Module):
    def __init__(self, *made: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(made)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def stack(inner: Any = None, after: Any = None) -> Stack:
    torch.manual_seed(0)
    return Stack(*(Layer((inner or (lambda: nn.Linear(4, 4)))(), after) for _ in range(2)))


def test_gradients_are_those_of_finite_differences_of_second_order_too() -> None:
    x = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    model = stack(lambda: Mlp("none")).double()
    surgery.apply(model, LEAN, inputs={"x": x.detach()})
    assert len(kinds(model, LeanGate)) == 2
    weights = tuple(model.parameters())
    assert gradcheck(lambda x, *_: model(x), (x, *weights))
    assert gradgradcheck(lambda x, *_: model(x), (x, *weights))


def test_an_input_that_is_written_to_before_the_backward_is_an_error() -> None:
    def into(x: Tensor, y: Tensor) -> Tensor:
        return x.mul_(0.5) + y  # a layer norm in half precision does not mind: it kept a copy

    model = stack(after=into)
    surgery.apply(model, LEAN, inputs={"x": torch.ones(1, 3, 4)})
    x = torch.randn(1, 3, 4, requires_grad=True) * 1.0
    with pytest.raises(SurgeryError, match=r"lean.*written to in place.*leave out the layer"):
        model(x).sum().backward()


def test_outputs_that_are_written_to_are_kept_as_they_became() -> None:
    class Twice(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2.0))

    found = []
    for step_of in ([], [LEAN]):
        model = stack(lambda: Twice(4, 4))
        if step_of:
            surgery.apply(model, step_of, inputs={"x": torch.ones(1, 3, 4)})
        x = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
        model(x).square().sum().backward()
        assert x.grad is not None
        found.append({"x": x.grad, **{n: p.grad for n, p in model.named_parameters()}})
    assert equal(*found)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["none", "scale", "order", "dropout", "bias", "act"])
def test_what_computes_something_else_is_no_gate(change: str) -> None:
    model = stack(lambda: Mlp(change))
    surgery.apply(model, LEAN, inputs={"x": torch.ones(1, 3, 4)})
    assert len(kinds(model, LeanGate)) == (2 if change == "none" else 0)


@pytest.mark.parametrize("at", [{"role": "attention.q"}, {"path": "model.layers.0.mlp"}])
def test_what_is_no_layer_is_refused(at: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="it is no layer"):
        surgery.apply(made("llama"), {**LEAN, "at": at})


def test_layers_without_norms_and_gates_are_refused() -> None:
    model: Any = made("gpt2")
    for block in model.transformer.h:
        block.ln_1 = block.ln_2 = nn.Identity()
    with pytest.raises(RefusedError, match="norms or gated MLPs, got none in 4 of them"):
        surgery.apply(model, LEAN)


def test_layers_can_be_chosen() -> None:
    model = made("llama", {**LEAN, "at": {"layers": [1, 3]}})
    assert kinds(model, LeanLayer) == ["model.layers.1", "model.layers.3"]
    assert {path.split(".")[2] for path in kinds(model, LeanNorm)} == {"1", "3"}
