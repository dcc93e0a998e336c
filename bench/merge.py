"""Merge arithmetic: one weight with one adapter, ours beside PEFT (goals, row 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.rounds import rounds

SHAPE, RANK, GOAL = (8192, 2048), 16, 1 / 7
SCALES = (0.1, 0.5, 1.0, 1.7, 2.0, 32 / 3, 100.0)
"""``alpha / rank`` of the adapters that are compared bit by bit."""


def run(*, quick: bool = False) -> dict[str, Any]:
    """Compare time on one thread, and every bit with what PEFT makes of float32 adapters."""
    torch.set_num_threads(1)
    count = 3 if quick else 15
    times = rounds(_candidates(), count)
    whole = times["surgery, with its check"]["median"] / times["peft"]["median"]
    share = times["surgery"]["median"] / times["peft"]["median"]
    equal = {scale: _equal(scale) for scale in SCALES}
    met = "met" if share <= GOAL else "missed"
    return {
        "what": f"fold one adapter of rank {RANK} into {SHAPE} bfloat16, CPU ms, one thread",
        "rows": [{"what": name, **time} for name, time in times.items()],
        "equal": {f"{scale:g}": same for scale, same in equal.items()},
        "verdicts": [
            f"surgery: {share:.3f} of PEFT (goal {GOAL:.3f}: {met}); with its check {whole:.3f}",
            f"every bit as PEFT's at {sum(equal.values())} of {len(equal)} scales",
        ],
    }


def _candidates() -> dict[str, Callable[[], object]]:
    base, a, b = _tensors()
    wide, half = _peft(base, a, b, 2.0), _peft(base, a.bfloat16(), b.bfloat16(), 2.0)
    return {
        "surgery": partial(_fold, base, a, b, 2.0, base.clone()),
        "surgery, with its check": partial(_checked, base, a, b, 2.0, base.clone()),
        "surgery, into new memory": partial(_ours, base, a, b, 2.0),
        "peft": partial(_merge, wide),
        "peft, safe_merge": partial(_merge, wide, safe_merge=True),
        "peft, bfloat16 adapter": partial(_merge, half),
        "copy": partial(base.clone().copy_, base),
        "copy, into new memory": base.clone,
    }


def _tensors() -> tuple[Tensor, Tensor, Tensor]:
    """Give a weight, and A and B in float32."""
    draw = torch.Generator().manual_seed(0)
    rows, columns = SHAPE
    base = torch.randn(SHAPE, generator=draw).mul_(0.02).bfloat16()
    a = torch.randn(RANK, columns, generator=draw) * 0.02
    b = torch.randn(rows, RANK, generator=draw) * 0.02
    return base, a, b


def _equal(scale: float) -> bool:
    """Tell whether ours and PEFT's own merge give the same bits."""
    base, a, b = _tensors()
    layer = _peft(base, a, b, scale)
    _merge(layer)
    return torch.equal(_ours(base, a, b, scale), layer.get_base_layer().weight)


def _branch(scale: float) -> Any:
    from surgery_plugins.surgeries.lora.branch import LINEAR, Branch

    names = {"adapter": "default", "kind": LINEAR, "leaf": "weight", "a": "a", "b": "b", "m": ""}
    sizes = {"rank": RANK, "alpha": scale * RANK, "scale": scale, "dropout": 0.0, "out_axis": 0}
    return Branch(**names, **sizes)


def _ours(base: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    from surgery_plugins.surgeries.lora.folding import merged

    return merged(base, [(_branch(scale), a, b, None)])


def _fold(base: Tensor, a: Tensor, b: Tensor, scale: float, target: Tensor) -> None:
    """Fold into memory that is there already, as PEFT does."""
    from surgery.operate.stretches import Stretches
    from surgery_plugins.surgeries.lora.folding import folded

    _into(target, (new for new, _ in folded(Stretches(base), [(_branch(scale), a, b, None)])))


def _checked(base: Tensor, a: Tensor, b: Tensor, scale: float, target: Tensor) -> None:
    """Fold as ``surgery merge`` does: finite values and outputs are checked."""
    from surgery.checks.invariants import is_finite
    from surgery.operate.merge import Folding
    from surgery.operate.stretches import Stretches

    fold, draw = Folding((_branch(scale),)), torch.Generator().manual_seed(0)
    pieces = fold.pieces(Stretches(base), a, b, generator=draw)
    _into(target, (piece for piece in pieces if is_finite(piece)))


def _into(target: Tensor, pieces: Iterable[Tensor]) -> None:
    flat, done = target.view(-1), 0
    for piece in pieces:
        flat[done : done + piece.numel()] = piece.view(-1)
        done += piece.numel()


def _peft(base: Tensor, a: Tensor, b: Tensor, scale: float) -> Any:
    """Give PEFT's layer of the same weight and adapter."""
    from peft import LoraConfig, get_peft_model

    linear = nn.Linear(SHAPE[1], SHAPE[0], bias=False, dtype=base.dtype)
    linear.weight.data = base.clone()
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["0"])
    layer = get_peft_model(nn.Sequential(linear), config).base_model.model[0]
    layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = a, b
    layer.scaling["default"] = scale
    return layer


def _merge(layer: Any, safe_merge: bool = False) -> None:
    """Merge once more; the weight grows, and its size does not matter for the time."""
    layer.merge(safe_merge=safe_merge)
    layer.merged_adapters.clear()
