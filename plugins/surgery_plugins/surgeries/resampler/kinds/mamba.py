"""The kind ``bimamba``: Mamba over all tokens, in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from surgery_plugins.surgeries.resampler.kind import (
    DROPOUT,
    EPS,
    Kind,
    Shapes,
    Size,
    Told,
    Value,
    count,
    lazily,
)

_MIXER = "blocks.0.forward_block"
_RANKS = {"in_proj.weight": 2, "conv1d.weight": 3, "dt_proj.weight": 2, "A_log": 2}


def _bimamba(shapes: Shapes, known: Mapping[str, Value]) -> Told | None:
    enter, leave = shapes.get("input_proj.weight", ()), shapes.get("output_proj.weight", ())
    parts = {name: shapes.get(f"{_MIXER}.{name}", ()) for name in _RANKS}
    fits = all(len(parts[name]) == rank for name, rank in _RANKS.items())
    depth = count(shapes, r"blocks\.(\d+)\.")
    if not depth or not fits or (len(enter), len(leave)) != (2, 2):
        return None
    told = Told()
    told.add("input_proj.weight", in_features=enter[1], hidden=enter[0])
    told.add("output_proj.weight", out_features=leave[0])
    told.add("blocks", depth=depth)
    told.add(f"{_MIXER}.A_log", d_inner=parts["A_log"][0], d_state=parts["A_log"][1])
    told.add(f"{_MIXER}.conv1d.weight", d_conv=parts["conv1d.weight"][2])
    told.add(f"{_MIXER}.dt_proj.weight", dt_rank=parts["dt_proj.weight"][1])
    told.add(f"{_MIXER}.conv1d.bias", conv_bias=f"{_MIXER}.conv1d.bias" in shapes)
    told.add(f"{_MIXER}.in_proj.bias", proj_bias=f"{_MIXER}.in_proj.bias" in shapes)
    return told


def _expanded(said: Mapping[str, Any]) -> Mapping[str, Value]:
    """Turn a factor into the whole number that ``mamba_ssm`` makes of it."""
    hidden, expand = said.get("hidden", said.get("hidden_dim")), said.get("expand")
    if isinstance(hidden, int) and isinstance(expand, int | float):
        return {"d_inner": int(expand * hidden)}
    return {}


BIMAMBA = Kind(
    "bimamba",
    {
        "hidden": Size(int, "width inside"),
        "depth": Size(int, "blocks"),
        "d_inner": Size(int, "channels of the scan, a whole number and not a factor"),
        "d_state": Size(int, "states of each channel"),
        "d_conv": Size(int, "length of the convolution"),
        "dt_rank": Size(int, "rank of the step sizes"),
        "conv_bias": Size(bool, "whether the convolution has a bias"),
        "proj_bias": Size(bool, "whether the mixers' projections have a bias"),
        "norm_first": Size(bool, "whether a block normalises before it mixes, or after it adds"),
        "eps": EPS,
        "dropout": DROPOUT,
    },
    re.compile(
        r"(input_proj|output_proj|final_norm|blocks\.\d+\.norm)\.(weight|bias)"
        r"|blocks\.\d+\.(forward|backward)_block\..+"
    ),
    _bimamba,
    lazily("mamba", "BiMamba"),
    metadata={
        "hidden_dim": "hidden",
        "num_layers": "depth",
        "layer_norm_eps": "eps",
        "in_dim": "in_features",
        "out_dim": "out_features",
    },
    implied=_expanded,
)
