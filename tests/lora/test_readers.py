"""Adapters take effect where torch reads a weight without calling its module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surgery_plugins.surgeries.lora import Lora
from tests.lora.kit import part, place, site, stir


def stack() -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2).eval().requires_grad_(False)


X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
PLACES = ["linear1", "linear2", "self_attn.out_proj", "self_attn.in_proj_weight"]


@pytest.mark.parametrize("path", PLACES)
def test_the_fast_path_of_an_encoder_layer_sees_the_adapter(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stack()
    base = model(X)
    transaction = place(model, [site(model, f"layers.1.{path}")])
    stir(model)
    calls = []
    fast = torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(
        torch, "_transformer_encoder_layer_fwd", lambda *a: calls.append(1) or fast(*a)
    )
    with torch.no_grad():
        quick = model(X)
    assert calls, "the fast path was not taken, so nothing was tested"
    assert not torch.allclose(quick, base, atol=1e-3)
    calls.clear()
    slow = model(X)
    assert len(calls) < 2, "the adapted layer has gradients and no fast path"
    torch.testing.assert_close(quick, slow, rtol=0, atol=1e-5)
    transaction.rollback()
    assert torch.equal(model(X), base)


def test_only_the_adapted_rows_of_an_in_projection_change() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    before = model.in_proj_weight.detach().clone()
    place(model, [part(model, "in_proj_weight", "attention.q", (0, 8))], Lora(rank=2))
    stir(model)
    assert torch.equal(model.in_proj_weight[8:], before[8:])
    assert not torch.equal(model.in_proj_weight[:8], before[:8])
    assert torch.equal(model.state_dict()["in_proj_weight"], before)


def test_attention_with_weights_of_its_own_for_q_k_and_v_is_adapted_too() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
    model.eval().requires_grad_(False)
    q, k, v = torch.randn(2, 3, 8), torch.randn(2, 3, 6), torch.randn(2, 3, 4)
    base = model(q, k, v)[0]
    place(model, [site(model, "q_proj_weight"), site(model, "v_proj_weight")])
    with torch.no_grad():
        assert torch.equal(model(q, k, v)[0], base)
    stir(model)
    assert not torch.allclose(model(q, k, v)[0], base, atol=1e-3)


def test_a_tied_head_keeps_the_base_where_only_the_embedding_is_adapted() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 6)
            self.head = nn.Linear(6, 9, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    hidden = torch.randn(2, 6)
    before = model.head(hidden)
    place(model, [site(model, "embed")])
    stir(model)
    assert torch.equal(model.head(hidden), before)
    assert model.head.weight is model.embed.weight
