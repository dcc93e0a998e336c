"""The same tensors give the same outputs and gradients as in PEFT."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from surgery_plugins.surgeries.lora import Lora
from tests.lora.kit import adapters, place, site, stir


class Net(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(3))
IMAGE = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(3))
LAYERS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "linear": (lambda: nn.Linear(6, 7), X),
    "linear without bias": (lambda: nn.Linear(6, 7, bias=False), X),
    "Conv1D": (lambda: Conv1D(7, 6), X),
    "embedding": (lambda: nn.Embedding(9, 6), torch.tensor([[0, 3, 8], [1, 1, 0]])),
    "conv1d": (lambda: nn.Conv1d(5, 6, 3, padding=1), X),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 1), stride=2, padding=1), IMAGE),
    "conv3d": (lambda: nn.Conv3d(2, 6, 3), IMAGE.view(2, 2, 2, 9, 9).repeat(1, 1, 2, 1, 1)),
}


def pair(name: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Give the same model with the same adapter, here and in PEFT."""
    torch.manual_seed(0)
    ours = Net(LAYERS[name][0]()).eval()
    theirs = _in_peft(copy.deepcopy(ours), fan=name == "Conv1D", **options)
    place(ours, [site(ours, "layer")], Lora(rank=4, alpha=6, **options))
    stir(ours)
    _copy(ours.layer, theirs.base_model.model.layer)
    return ours, theirs


def _in_peft(model: nn.Module, fan: bool, **options: Any) -> Any:
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["layer"],
        lora_dropout=options.get("dropout", 0.0),
        use_dora=options.get("dora", False),
        use_rslora=options.get("rslora", False),
        fan_in_fan_out=fan,
    )
    return peft.get_peft_model(model, config).eval()


def _copy(ours: Any, theirs: Any) -> None:
    table = {
        "_A": theirs.lora_embedding_A if theirs.lora_embedding_A else theirs.lora_A,
        "_B": theirs.lora_embedding_B if theirs.lora_embedding_B else theirs.lora_B,
        "_M": theirs.lora_magnitude_vector,
    }
    with torch.no_grad():
        for end, tensor in adapters_by_end(ours).items():
            place_ = table[end]["default"]
            target = place_ if isinstance(place_, nn.Parameter) else place_.weight
            target.copy_(tensor.view_as(target))


def adapters_by_end(layer: nn.Module) -> dict[str, nn.Parameter]:
    return {name[-2:]: p for name, p in layer.named_parameters() if name.startswith("lora_")}


@pytest.mark.parametrize("options", [{}, {"dora": True}, {"rslora": True}], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_equal(name: str, options: Any) -> None:
    ours, theirs = pair(name, **options)
    x = LAYERS[name][1]
    mine, other = ours(x), theirs(x)
    torch.testing.assert_close(mine, other, rtol=0, atol=2e-6)
    weights = torch.linspace(-1, 1, mine.numel()).view_as(mine)
    (mine * weights).sum().backward()
    (other * weights).sum().backward()
    layer: Any = theirs.base_model.model.layer
    found = {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}
    assert len(found) == len(adapters(ours)) == (3 if options.get("dora") else 2)
    for end, parameter in adapters_by_end(ours.layer).items():
        kind = "magnitude" if end == "_M" else end
        (grad,) = [g for n, g in found.items() if kind in n and ("magnitude" in n) == (end == "_M")]
        torch.testing.assert_close(parameter.grad, grad.view_as(parameter), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "embedding"])
def test_dropout_draws_and_uses_the_same_mask(name: str, dora: bool) -> None:
    ours, theirs = pair(name, dropout=0.4, dora=dora)
    x = LAYERS[name][1]
    outs = []
    for model in (ours, theirs):
        torch.manual_seed(11)
        outs.append(model.train()(x))
    torch.testing.assert_close(*outs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_magnitudes_begin_as_in_peft(name: str) -> None:
    torch.manual_seed(0)
    ours = Net(LAYERS[name][0]())
    theirs: Any = _in_peft(copy.deepcopy(ours), fan=name == "Conv1D", dora=True)
    place(ours, [site(ours, "layer")], Lora(rank=4, dora=True))
    want = theirs.base_model.model.layer.lora_magnitude_vector["default"].weight
    mine = adapters_by_end(ours.layer)["_M"]
    torch.testing.assert_close(mine, want.view_as(mine), rtol=1e-6, atol=0)
