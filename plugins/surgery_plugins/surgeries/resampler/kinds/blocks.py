"""Kinds that merge neighbours: ``patch_merger``, both average pools, ``c_abstractor``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from surgery_plugins.surgeries.resampler.kind import (
    ACT,
    BIAS,
    EPS,
    FACTOR,
    Kind,
    Shapes,
    Size,
    Told,
    Value,
    count,
    lazily,
    root,
)


def _merger(shapes: Shapes, known: Mapping[str, Value]) -> Told | None:
    norm, first, last = (shapes.get(n, ()) for n in ("ln_q.weight", "mlp.0.weight", "mlp.2.weight"))
    if (len(norm), len(first), len(last)) != (1, 2, 2) or first[0] % norm[0]:
        return None
    factor = root(first[0] // norm[0])
    if factor is None:
        return None
    told = Told()
    told.add("ln_q.weight", in_features=norm[0])
    told.add("ln_q.bias", norm="layer" if "ln_q.bias" in shapes else "rms")
    told.add("mlp.0.weight", factor=factor)
    told.add("mlp.2.weight", out_features=last[0])
    return told


_POOLED = "any that divides the grid's side"


def _pool(shapes: Shapes, known: Mapping[str, Value]) -> Told | None:
    weight = shapes.get("proj.weight", ())
    if len(weight) != 2:
        return None
    told = Told(candidates={"factor": _POOLED})
    told.add("proj.weight", in_features=weight[1], out_features=weight[0])
    told.add("proj.bias", bias="proj.bias" in shapes)
    return told


def _normed_pool(shapes: Shapes, known: Mapping[str, Value]) -> Told | None:
    weight = shapes.get("mm_input_projection_weight", ())
    if len(weight) != 2:
        return None
    told = Told(candidates={"factor": _POOLED})
    told.add("mm_input_projection_weight", in_features=weight[0], out_features=weight[1])
    return told


def _abstractor(shapes: Shapes, known: Mapping[str, Value]) -> Told | None:
    enter, leave = shapes.get("proj_in.weight", ()), shapes.get("readout.2.weight", ())
    depth = count(shapes, r"stage1\.(\d+)\.")
    parts = {n: shapes.get(f"stage1.0.{n}.weight", ()) for n in ("dwconv", "pw1", "se.fc.0")}
    if not depth or (len(enter), len(leave)) != (2, 2) or any(len(s) != 4 for s in parts.values()):
        return None
    told = Told(candidates={"side": "any; side * side tokens come out"})
    told.add("proj_in.weight", in_features=enter[1], hidden=enter[0])
    told.add("readout.2.weight", out_features=leave[0])
    told.add("stage1", depth=depth)
    told.add("stage1.0.dwconv.weight", kernel=parts["dwconv"][2])
    told.add("stage1.0.pw1.weight", expanded=parts["pw1"][0])
    told.add("stage1.0.se.fc.0.weight", squeezed=parts["se.fc.0"][0])
    return told


PATCH_MERGER = Kind(
    "patch_merger",
    {
        "factor": FACTOR,
        "norm": Size(str, "norm of each token", choices=("rms", "layer")),
        "grouped": Size(bool, "whether the tokens of a block follow each other already"),
    },
    re.compile(r"(ln_q|mlp\.[02])\.(weight|bias)"),
    _merger,
    lazily("pooling", "PatchMergerConnector"),
    metadata={"spatial_merge_size": "factor"},
)
AVG_POOL = Kind(
    "avg_pool",
    {"factor": FACTOR, "bias": BIAS},
    re.compile(r"proj\.(weight|bias)"),
    _pool,
    lazily("pooling", "AveragePool"),
    metadata={"pool_size": "factor", "kernel_size": "factor"},
)
NORMED_AVG_POOL = Kind(
    "normed_avg_pool",
    {"factor": FACTOR, "eps": EPS},
    re.compile(r"mm_input_projection_weight|mm_soft_emb_norm\.weight"),
    _normed_pool,
    lazily("pooling", "NormedAveragePool"),
)
C_ABSTRACTOR = Kind(
    "c_abstractor",
    {
        "hidden": Size(int, "channels of the grid"),
        "kernel": Size(int, "side of the convolutions, odd"),
        "expanded": Size(int, "channels inside a block"),
        "squeezed": Size(int, "width of squeeze-excite"),
        "depth": Size(int, "blocks before the pool, and after it"),
        "side": Size(int, "side of the grid that comes out"),
        "act": ACT,
    },
    re.compile(
        r"(proj_in|readout\.[02]|stage[12]\.\d+\.(dwconv|norm|pw[12]|se\.fc\.[02]))\.(weight|bias)"
    ),
    _abstractor,
    lazily("abstractor", "CAbstractor"),
    metadata={"hidden_dim": "hidden", "kernel_size": "kernel"},
)
