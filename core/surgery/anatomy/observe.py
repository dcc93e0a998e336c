"""Observe one forward and keep what matters of it, by parameter name."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from torch import nn

from surgery.anatomy.fold import tensors_in
from surgery.anatomy.observed import Observed
from surgery.anatomy.provenance import Attention, Known, Origin
from surgery.anatomy.repeat import fold_of, repeated
from surgery.anatomy.roles import Reading, read_roles
from surgery.anatomy.trace import Trace


def observe(model: nn.Module, inputs: dict[str, Any], *, fold: bool = True) -> Observed:
    """Run one forward of a model on meta and read it.

    Args:
        model: the model, all of its tensors on meta.
        inputs: keyword arguments; tensors are put on meta.
        fold: False to run every layer, even those that are like one that ran.
    """
    inputs = {name: _meta(value) for name, value in inputs.items()}
    trace = Trace(model, inputs)
    folded = fold_of(model, trace)
    try:
        with folded.over() if fold else nullcontext(), trace.watching():
            outputs = model(**inputs)
    except Exception as error:
        if folded.skipped:
            return observe(model, inputs, fold=False)
        line = (str(error).strip().splitlines() or ["no message"])[0]
        return Observed(failure=f"{type(error).__name__}: {line[:200]}", complete=False)
    return repeated(_read(trace, outputs), folded) or observe(model, inputs, fold=False)


def _read(trace: Trace, outputs: Any) -> Observed:
    known = [trace.table[id(t)] for t in tensors_in(outputs) if id(t) in trace.table]
    readings, notes = read_roles(trace, known)
    return Observed(
        readings=readings,
        attention=tuple(map(_names_of_call, trace.attentions)),
        mlp=tuple(_names_of_mlp(origin) for origin in trace.origins if _ends_mlp(origin, readings)),
        calls=len(trace.attentions),
        direct=frozenset(trace.read),
        notes=tuple(dict.fromkeys(notes)),
    )


def _meta(value: Any) -> Any:
    import torch

    return value.to("meta") if isinstance(value, torch.Tensor) else value


def _names_of_call(call: Attention) -> frozenset[str]:
    parts: list[Known] = [call.q, call.k, call.v]
    origins = [o for known in parts for o in known.origins if o.kind != "embedding"]
    return frozenset(name for o in (*origins, *call.proj) for name in o.weights)


def _ends_mlp(origin: Origin, readings: dict[str, Reading]) -> bool:
    return any("mlp.down" in readings[name].roles for name in origin.weights)


def _names_of_mlp(origin: Origin) -> frozenset[str]:
    return frozenset(name for o in (origin, *origin.inputs) for name in o.weights)
