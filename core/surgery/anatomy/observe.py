"""Observe one forward and keep what matters of it, by parameter name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from surgery.anatomy.provenance import Attention, Known, Origin
from surgery.anatomy.roles import Reading, read_roles
from surgery.anatomy.trace import Trace, tensors_in


@dataclass(frozen=True)
class Observed:
    """What one or several forwards showed.

    Attributes:
        readings: roles and rows, by parameter name.
        attention: names of the weights of each attention call: q, k, v and proj together.
        mlp: names of the weights of each MLP: up, gate and down together.
        calls: how many attention calls were observed.
        direct: names of weights that were read while their module was not running.
        notes: remarks on what stayed unclear.
        failure: why the forward broke off, or an empty text.
        complete: True where one forward of the whole model was observed.
    """

    readings: dict[str, Reading] = field(default_factory=dict)
    attention: tuple[frozenset[str], ...] = ()
    mlp: tuple[frozenset[str], ...] = ()
    calls: int = 0
    direct: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    failure: str = ""
    complete: bool = True

    def below(self, path: str) -> Observed:
        """Give the same with all names below a path."""

        def moved(names: Iterable[str]) -> frozenset[str]:
            return frozenset(f"{path}.{name}" for name in names)

        return replace(
            self,
            readings={f"{path}.{name}": reading for name, reading in self.readings.items()},
            attention=tuple(map(moved, self.attention)),
            mlp=tuple(map(moved, self.mlp)),
            direct=moved(self.direct),
            notes=(f"{path} was observed by itself", *self.notes),
            complete=False,
        )

    @staticmethod
    def joined(parts: Iterable[Observed]) -> Observed:
        """Join what several towers showed."""
        found = Observed(complete=False)
        for part in parts:
            found = Observed(
                readings={**found.readings, **part.readings},
                attention=found.attention + part.attention,
                mlp=found.mlp + part.mlp,
                calls=found.calls + part.calls,
                direct=found.direct | part.direct,
                notes=found.notes + part.notes,
                complete=False,
            )
        return found


def observe(model: nn.Module, inputs: dict[str, Any]) -> Observed:
    """Run one forward of a model on meta and read it.

    Args:
        model: the model, all of its tensors on meta.
        inputs: keyword arguments; tensors are put on meta.
    """
    inputs = {name: _meta(value) for name, value in inputs.items()}
    trace = Trace(model, inputs)
    try:
        with trace.watching():
            outputs = model(**inputs)
    except Exception as error:
        line = (str(error).strip().splitlines() or ["no message"])[0]
        return Observed(failure=f"{type(error).__name__}: {line[:200]}", complete=False)
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
