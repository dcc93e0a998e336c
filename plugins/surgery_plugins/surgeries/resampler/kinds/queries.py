"""Kinds in which learned vectors read the tokens: ``perceiver`` and ``qformer``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import gcd

from surgery_plugins.surgeries.resampler.kind import (
    ACT,
    DROPOUT,
    EPS,
    Kind,
    Shapes,
    Size,
    Told,
    Value,
    count,
    divisors,
    lazily,
)

_LAYER = "perceiver_resampler.layers.0.self_attn"


def _perceiver(shapes: Shapes, known: Mapping[str, Value]) -> Told | None:
    gate = shapes.get("modality_projection.gate_proj.weight", ())
    latents = shapes.get("perceiver_resampler.latents", ())
    q, kv = (shapes.get(f"{_LAYER}.{n}_proj.weight", ()) for n in "qk")
    depth = count(shapes, r"perceiver_resampler\.layers\.(\d+)\.")
    if not depth or {len(gate), len(latents), len(q), len(kv)} != {2}:
        return None
    told = Told()
    told.add("modality_projection.gate_proj.weight", in_features=gate[1], hidden=gate[0])
    told.add("perceiver_resampler.latents", latents=latents[0], out_features=latents[1])
    told.add("perceiver_resampler.layers", depth=depth)
    _heads(told, q[0], kv[0], known)
    return told


def _heads(told: Told, q: int, kv: int, known: Mapping[str, Value]) -> None:
    """Tell heads, which only one of heads, kv_heads and head_dim determines."""
    dims = divisors(gcd(q, kv))
    for name, rows in (("heads", q), ("kv_heads", kv)):
        number = known.get(name)
        if "head_dim" not in known and number and rows % int(number) == 0:
            known = {**known, "head_dim": rows // int(number)}
    if known.get("head_dim") in dims:
        dim = int(known["head_dim"])
        told.add(f"{_LAYER}.q_proj.weight", heads=q // dim, head_dim=dim)
        told.add(f"{_LAYER}.k_proj.weight", kv_heads=kv // dim)
    options = ", ".join(f"{q // dim}/{kv // dim}/{dim}" for dim in reversed(dims[-8:]))
    text = f"heads/kv_heads/head_dim one of {options}; one of the three tells the others"
    told.candidates.update(dict.fromkeys(("heads", "kv_heads", "head_dim"), text))


_CROSS = "qformer.encoder.layer.0.crossattention.attention.key.weight"
_FFN = "qformer.encoder.layer.0.intermediate_query.dense.weight"


def _qformer(shapes: Shapes, known: Mapping[str, Value]) -> Told | None:
    query, key, ffn = (shapes.get(n, ()) for n in ("query_tokens", _CROSS, _FFN))
    leave = shapes.get("language_projection.weight", ())
    depth = count(shapes, r"qformer\.encoder\.layer\.(\d+)\.")
    if not depth or (len(query), len(key), len(ffn), len(leave)) != (3, 2, 2, 2):
        return None
    told = Told()
    told.add("query_tokens", queries=query[1], hidden=query[2])
    told.add(_CROSS, in_features=key[1])
    told.add(_FFN, ffn=ffn[0])
    told.add("qformer.encoder.layer", depth=depth)
    told.add("crossattention", cross_every=_every(shapes, depth))
    told.add("language_projection.weight", out_features=leave[0])
    told.candidates["heads"] = "one of " + ", ".join(map(str, divisors(query[2])[:16]))
    return told


def _every(shapes: Shapes, depth: int) -> int:
    layers = [
        n
        for n in range(1, depth)
        if f"qformer.encoder.layer.{n}.crossattention.output.dense.weight" in shapes
    ]
    return layers[0] if layers else depth


PERCEIVER = Kind(
    "perceiver",
    {
        "hidden": Size(int, "width inside the projection"),
        "latents": Size(int, "latents, which are the tokens that come out"),
        "depth": Size(int, "layers"),
        "heads": Size(int, "attention heads"),
        "kv_heads": Size(int, "heads of keys and values"),
        "head_dim": Size(int, "width of a head"),
        "act": ACT,
        "eps": EPS,
    },
    re.compile(r"modality_projection\.(gate|up|down)_proj\.weight|perceiver_resampler\..+"),
    _perceiver,
    lazily("perceiver", "PerceiverConnector"),
    metadata={
        "resampler_n_latents": "latents",
        "resampler_depth": "depth",
        "resampler_n_heads": "heads",
        "resampler_head_dim": "head_dim",
        "num_key_value_heads": "kv_heads",
        "hidden_act": "act",
        "rms_norm_eps": "eps",
    },
)
QFORMER = Kind(
    "qformer",
    {
        "queries": Size(int, "queries, which are the tokens that come out"),
        "hidden": Size(int, "width inside"),
        "ffn": Size(int, "width inside the feed-forward"),
        "depth": Size(int, "layers"),
        "heads": Size(int, "attention heads"),
        "cross_every": Size(int, "every how many layers one reads the tokens"),
        "act": ACT,
        "eps": EPS,
        "dropout": DROPOUT,
    },
    re.compile(r"query_tokens|language_projection\.(weight|bias)|qformer\.(layernorm|encoder)\..+"),
    _qformer,
    lazily("perceiver", "QFormerConnector"),
    metadata={
        "num_query_tokens": "queries",
        "hidden_size": "hidden",
        "intermediate_size": "ffn",
        "num_hidden_layers": "depth",
        "num_attention_heads": "heads",
        "cross_attention_frequency": "cross_every",
        "hidden_act": "act",
        "layer_norm_eps": "eps",
        "hidden_dropout_prob": "dropout",
    },
)
