"""Kinds that project tokens: ``linear``, ``mlp`` and ``pixel_shuffle``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from surgery_plugins.surgeries.resampler.kind import (
    ACT,
    BIAS,
    FACTOR,
    Kind,
    Shapes,
    Size,
    Told,
    Value,
    lazily,
    root,
)

_NUMBERED = re.compile(r"(?:mlp\.)?(\d+)\.(weight|bias)")
_LAYERS = Size(int, "how many matrices")
_HIDDEN = Size(int, "width between the matrices", least=0)


def _linear(shapes: Shapes, known: Mapping[str, Value]) -> Told | None:
    weight = shapes.get("linear.weight", ())
    if len(weight) != 2:
        return None
    told = Told()
    told.add("linear.weight", in_features=weight[1], out_features=weight[0])
    told.add("linear.bias", bias="linear.bias" in shapes)
    return told


def _stack(shapes: Shapes) -> Told | None:
    """Read layers ``linear_1`` ... ``linear_n``, the first width as ``in_features``."""
    layers = sum(re.fullmatch(r"linear_\d+\.weight", name) is not None for name in shapes)
    weights = [shapes.get(f"linear_{n}.weight", ()) for n in range(1, layers + 1)]
    if not weights or any(len(weight) != 2 for weight in weights):
        return None
    told = Told()
    told.add("linear_1.weight", in_features=weights[0][1], hidden=weights[0][0], layers=layers)
    told.add(f"linear_{layers}.weight", out_features=weights[-1][0], layers=layers)
    told.add("linear_1.bias", bias="linear_1.bias" in shapes)
    return told


def _mlp(shapes: Shapes, known: Mapping[str, Value]) -> Told | None:
    told = _stack(shapes)
    if told is None or told.sizes["layers"][0] == 1 or "layer_norm.weight" in shapes:
        return None
    told.add("norm_1.weight", norm="norm_1.weight" in shapes)
    return told


def _pixel_shuffle(shapes: Shapes, known: Mapping[str, Value]) -> Told | None:
    told = _stack(shapes)
    if told is None or "norm_1.weight" in shapes:
        return None
    wide = int(told.sizes.pop("in_features")[0])
    if told.sizes["layers"][0] == 1:
        del told.sizes["hidden"]
    told.add("layer_norm.weight", norm="layer_norm.weight" in shapes)
    options = {f: wide // f**2 for f in range(2, wide + 1) if wide % f**2 == 0}
    if known.get("in_features") in options.values():
        told.add("linear_1.weight", in_features=known["in_features"])
        factor = root(wide // int(known["in_features"]))
        told.add("linear_1.weight", factor=factor or 0)
    elif known.get("factor") in options:
        told.add("linear_1.weight", in_features=options[int(known["factor"])])
    pairs = ", ".join(f"{f} with in_features {width}" for f, width in list(options.items())[:8])
    told.candidates["factor"] = told.candidates["in_features"] = pairs or "none"
    return told if options else None


def _ordered(shapes: Shapes) -> dict[str, str]:
    """Name the parts of a numbered sequence: matrices by number, norms by what they follow."""
    names = {name: name for name in shapes if not _NUMBERED.fullmatch(name)}
    found = {name: m for name in shapes if (m := _NUMBERED.fullmatch(name))}
    ranks = {int(m[1]): len(shapes[name]) for name, m in found.items() if m[2] == "weight"}
    layer, parts = 0, {}
    for number, rank in sorted(ranks.items()):
        layer += rank == 2
        parts[number] = f"linear_{layer}" if rank == 2 else f"norm_{layer}"
    for name, m in found.items():
        part = parts.get(int(m[1]), m[1]).replace("norm_0", "layer_norm")
        names[name] = f"{part}.{m[2]}"
    return names


def _one_matrix(shapes: Shapes) -> dict[str, str]:
    return {
        n: o.replace("modality_projection.proj.", "linear_1.") for n, o in _ordered(shapes).items()
    }


def _no_inside(sizes: Mapping[str, Value]) -> Mapping[str, Value]:
    return {"hidden": 0, "act": "linear"} if sizes.get("layers") == 1 else {}


LINEAR = Kind(
    "linear",
    {"bias": BIAS},
    re.compile(r"linear\.(weight|bias)"),
    _linear,
    lazily("projections", "LinearConnector"),
)
MLP = Kind(
    "mlp",
    {
        "layers": Size(int, "how many matrices", least=2),
        "hidden": Size(int, "width between the matrices"),
        "act": ACT,
        "bias": BIAS,
        "norm": Size(bool, "whether a LayerNorm follows each matrix but the last"),
    },
    re.compile(r"(linear|norm)_\d+\.(weight|bias)"),
    _mlp,
    lazily("projections", "MlpConnector"),
    rename=_ordered,
    metadata={"hidden_size": "hidden", "num_layers": "layers", "activation": "act"},
)
PIXEL_SHUFFLE = Kind(
    "pixel_shuffle",
    {
        "factor": FACTOR,
        "layers": _LAYERS,
        "hidden": _HIDDEN,
        "act": ACT,
        "bias": BIAS,
        "norm": Size(bool, "whether a LayerNorm stands before the first matrix"),
        "transposed": Size(bool, "whether rows and columns come out swapped"),
    },
    re.compile(r"(linear_\d+|layer_norm)\.(weight|bias)"),
    _pixel_shuffle,
    lazily("projections", "PixelShuffleMlp"),
    rename=_one_matrix,
    unused=_no_inside,
    metadata={"scale_factor": "factor", "activation": "act"},
)
