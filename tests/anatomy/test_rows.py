"""Exact rows of fused weights, worked out by hand from how each model cuts its own output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import surgery
from surgery.anatomy.rows import ranges_of
from surgery.anatomy.site import RowRange, Site

transformers = pytest.importorskip("transformers")

Rows = dict[str, tuple[RowRange, ...]]
TOKENS: dict[str, Any] = {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}


def meta(name: str, config: str, **options: Any) -> nn.Module:
    made = getattr(transformers, config)(**{**TOKENS, **options})
    with torch.device("meta"):
        return getattr(transformers, name)._from_config(made).eval()


def site(model: nn.Module, ending: str, **inputs: Any) -> Site:
    anatomy = surgery.walk(model, inputs or None)
    (found,) = (s for s in anatomy if s.path.endswith(ending))
    return found


def rows(q: list[int], k: list[int], v: list[int]) -> Rows:
    named = {"attention.q": q, "attention.k": k, "attention.v": v}
    return {role: ranges_of(sorted(numbers)) for role, numbers in named.items()}


def span(start: int, stop: int) -> list[int]:
    return list(range(start, stop))


def join(parts: list[list[int]]) -> list[int]:
    return [number for part in parts for number in part]


def per_head(heads: int, size: int) -> Rows:
    """Each head has its q, then its k, then its v."""
    cut = [[span(3 * h * size + p * size, 3 * h * size + (p + 1) * size) for h in range(heads)]
           for p in range(3)]  # fmt: skip
    return rows(*[join(part) for part in cut])


SHORT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}

CASES: list[tuple[str, Callable[[], nn.Module], str, Rows]] = [
    (
        "NeoX, interleaved by head",
        lambda: meta("GPTNeoXModel", "GPTNeoXConfig", **SHORT, intermediate_size=32),
        "query_key_value",
        per_head(4, 4),
    ),
    (
        "Bloom, interleaved by head",
        lambda: meta("BloomModel", "BloomConfig", hidden_size=16, n_layer=1, n_head=4),
        "query_key_value",
        per_head(4, 4),
    ),
    (
        "GPT-2, contiguous, input first",
        lambda: meta("GPT2Model", "GPT2Config", n_embd=16, n_layer=1, n_head=4),
        "c_attn",
        rows(span(0, 16), span(16, 32), span(32, 48)),
    ),
    (
        "MPT, contiguous",
        lambda: meta("MptModel", "MptConfig", d_model=16, n_layers=1, n_heads=4),
        "Wqkv",
        rows(span(0, 16), span(16, 32), span(32, 48)),
    ),
    (
        "Phi-3, contiguous, fewer heads for k and v",
        lambda: meta(
            "Phi3Model", "Phi3Config", **SHORT, num_key_value_heads=2, intermediate_size=32,
            pad_token_id=0,
        ),
        "qkv_proj",
        rows(span(0, 16), span(16, 24), span(24, 32)),
    ),
    (
        "CodeGen, q, v, k in each of four blocks",
        lambda: meta("CodeGenModel", "CodeGenConfig", n_embd=16, n_layer=1, n_head=4, rotary_dim=2),
        "qkv_proj",
        rows(
            join([span(12 * b, 12 * b + 4) for b in range(4)]),
            join([span(12 * b + 8, 12 * b + 12) for b in range(4)]),
            join([span(12 * b + 4, 12 * b + 8) for b in range(4)]),
        ),
    ),
    (
        "Falcon, groups of q heads with their k and v",
        lambda: meta(
            "FalconModel", "FalconConfig", **SHORT, num_kv_heads=2, new_decoder_architecture=True
        ),
        "query_key_value",
        rows(span(0, 8) + span(16, 24), span(8, 12) + span(24, 28), span(12, 16) + span(28, 32)),
    ),
    (
        "Falcon, one k and v for all",
        lambda: meta("FalconModel", "FalconConfig", **SHORT, multi_query=True),
        "query_key_value",
        rows(span(0, 16), span(16, 20), span(20, 24)),
    ),
    (
        "Persimmon, interleaved by head",
        lambda: meta("PersimmonModel", "PersimmonConfig", **SHORT, intermediate_size=32),
        "query_key_value",
        per_head(4, 4),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "ending", "wanted"), [c[1:] for c in CASES],
                         ids=[c[0] for c in CASES])  # fmt: skip
def test_fused_rows(make: Callable[[], nn.Module], ending: str, wanted: Rows) -> None:
    found = site(make(), ending)
    assert dict(found.rows) == wanted
    assert "attention.qkv" in found.roles
    assert found.evidence == "trace"
    assert found.narrowed("attention.q").part == "attention.q"


def test_conv1d_stores_its_input_first() -> None:
    found = site(meta("GPT2Model", "GPT2Config", n_embd=16, n_layer=1, n_head=4), "c_attn")
    assert (found.shape, found.out_axis, found.in_axis) == ((16, 48), 1, 0)


def test_latent_attention() -> None:
    """DeepSeek-V3: k is made of kv_b's first rows of each head and kv_a's last rows."""
    model = meta(
        "DeepseekV3Model", "DeepseekV3Config", **SHORT, num_key_value_heads=4, intermediate_size=32,
        moe_intermediate_size=8, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
        q_lora_rank=8, kv_lora_rank=6, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=3,
        first_k_dense_replace=1, num_nextn_predict_layers=0, head_dim=2,
    )  # fmt: skip
    kv_b, kv_a = site(model, "kv_b_proj"), site(model, "kv_a_proj_with_mqa")
    assert kv_b.rows["attention.k"] == tuple((7 * h, 7 * h + 4) for h in range(4))
    assert kv_b.rows["attention.v"] == tuple((7 * h + 4, 7 * h + 7) for h in range(4))
    assert kv_a.rows["attention.k"] == ((6, 8),)
    assert "attention.q" in site(model, "q_b_proj").roles


@pytest.mark.parametrize(
    ("name", "gate", "up"),
    [
        ("mixtral", ((0, 8),), ((8, 16),)),
        ("gpt_oss", tuple((n, n + 1) for n in range(0, 16, 2)),
         tuple((n, n + 1) for n in range(1, 16, 2))),
    ],
)  # fmt: skip
def test_expert_tensors(name: str, gate: object, up: object) -> None:
    shape = {**SHORT, "num_key_value_heads": 2, "intermediate_size": 8, "num_local_experts": 4}
    if name == "mixtral":
        model = meta("MixtralModel", "MixtralConfig", **shape)
    else:
        model = meta("GptOssModel", "GptOssConfig", **shape, head_dim=4)
    fused, down = site(model, "experts.gate_up_proj"), site(model, "experts.down_proj")
    assert (fused.rows["mlp.gate"], fused.rows["mlp.up"]) == (gate, up)
    assert "mlp.down" in down.roles
    axes = (1, 2) if name == "mixtral" else (2, 1)
    assert (fused.out_axis, fused.in_axis) == (down.out_axis, down.in_axis) == axes


class Fused(nn.Module):
    """A vision transformer's attention as timm writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * 0.5) @ k.transpose(-2, -1)
        return x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


class Grouped(nn.Module):
    """Two groups of two q heads, each with a k and a v head, as InternLM2 stores them."""

    def __init__(self) -> None:
        super().__init__()
        self.wqkv, self.wo = nn.Linear(16, 32, bias=False), nn.Linear(16, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        cut = self.wqkv(x).view(b, n, 2, 4, 4)
        q = cut[..., :2, :].flatten(2, 3).transpose(1, 2)
        k, v = (cut[..., i, :].transpose(1, 2).repeat_interleave(2, 1) for i in (2, 3))
        done = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.wo(done.transpose(1, 2).flatten(2))


X = torch.zeros(1, 5, 16)


def test_plain_modules_with_given_inputs() -> None:
    assert dict(site(Fused(), "qkv", x=X).rows) == rows(span(0, 16), span(16, 32), span(32, 48))
    found = site(Grouped(), "wqkv", x=X)
    wanted = rows(
        span(0, 8) + span(16, 24), span(8, 12) + span(24, 28), span(12, 16) + span(28, 32)
    )
    assert dict(found.rows) == wanted
    assert site(Grouped(), "wo", x=X).roles == {"attention.proj"}


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True) for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("fast", [True, False])
def test_torch_encoder_layers_also_on_their_fast_path(fast: bool) -> None:
    model = Encoder().eval()
    with torch.set_grad_enabled(not fast):
        anatomy = surgery.walk(model, {"x": X})
    fused = anatomy.by_path["layers.1.self_attn.in_proj_weight"]
    assert dict(fused.rows) == rows(span(0, 16), span(16, 32), span(32, 48))
    assert fused.layer is not None
    assert fused.layer.number == 1
    counts = anatomy.role_counts()
    assert (counts["attention.proj"], counts["mlp.up"], counts["mlp.down"]) == (2, 2, 2)
    assert anatomy.by_path["layers.0.self_attn.out_proj"].direct


def test_torch_attention_with_separate_weights() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(16, 4, kdim=8, vdim=4, batch_first=True)

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self.attn(q, k, v)[0]

    inputs = {"q": X, "k": torch.zeros(1, 3, 8), "v": torch.zeros(1, 3, 4)}
    anatomy = surgery.walk(Cross(), inputs)
    for part in "qkv":
        assert anatomy.by_path[f"attn.{part}_proj_weight"].roles == {f"attention.{part}"}
