"""Roles: what the observed dataflow says each weight does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from surgery.anatomy.provenance import Attention, Known, Origin
from surgery.anatomy.rows import rows_at
from surgery.anatomy.site import RowRange
from surgery.anatomy.trace import Trace

Rows = dict[str, set[RowRange]]


@dataclass
class Reading:
    """What was read about one weight.

    Attributes:
        roles: its roles.
        rows: output rows of each role, where it has several or not all rows have it.
        origins: the contractions in which it took part.
    """

    roles: set[str] = field(default_factory=set)
    rows: Rows = field(default_factory=dict)
    origins: list[Origin] = field(default_factory=list)

    def add(self, role: str, rows: tuple[RowRange, ...] | None = None) -> None:
        """Add a role, and the rows that have it where not all have."""
        self.roles.add(role)
        if rows is not None:
            self.rows.setdefault(role, set()).update(rows)


Readings = dict[str, Reading]


def read_roles(trace: Trace, outputs: Iterable[Known]) -> tuple[Readings, list[str]]:
    """Give the roles of every weight that took part, and remarks on what stayed unclear.

    Args:
        trace: the observed forward.
        outputs: what the model returned.
    """
    readings: Readings = {}
    notes: list[str] = []
    for origin in trace.origins:
        for name in origin.weights:
            readings.setdefault(name, Reading()).origins.append(origin)
    for call in trace.attentions:
        notes += _attention(call, readings)
    for origin in trace.origins:
        _by_itself(origin, readings)
        _mlp(origin, readings)
    for known in outputs:
        _head(known, readings)
    for name in trace.norms:
        readings.setdefault(name, Reading()).add("norm")
    return readings, notes


def _attention(call: Attention, readings: Readings) -> Iterator[str]:
    if not call.q.origins and call.k.stream and call.v.stream:
        return  # a learned query over the stream itself: no weight made its keys and values
    parts = {"attention.q": call.q, "attention.k": call.k, "attention.v": call.v}
    for role, known in parts.items():
        several = len(known.origins) > 1
        fused = [o for o in known.origins if _shared(o, role, parts) or several]
        for origin in known.origins:
            if origin.kind == "embedding":
                continue
            rows = rows_at(known, origin) if origin in fused else None
            if rows == () and several:
                continue  # it passes by: what arrives is made by the others
            if origin in fused and not rows:
                names = ", ".join(sorted(origin.weights))
                yield f"{names}: the rows of {role} could not be followed"
            for name in origin.weights:
                readings[name].add(role, _moved(rows or None, origin))
    for origin in call.proj:
        for name in origin.weights:
            readings[name].add("attention.proj")


def _shared(origin: Origin, role: str, parts: dict[str, Known]) -> bool:
    """Tell whether a weight's rows reach another argument of the same call too."""
    others = (known for other, known in parts.items() if other != role)
    return any(o.weights & origin.weights for known in others for o in known.origins)


def _moved(rows: tuple[RowRange, ...] | None, origin: Origin) -> tuple[RowRange, ...] | None:
    """Shift rows of a slice of a parameter to where they are in the parameter."""
    weight = origin.weight
    if rows is None or weight is None or origin.rows is not None or weight.dim() == 0:
        return rows
    stride = weight.stride(origin.out_dim)
    whole = stride * weight.shape[origin.out_dim]
    offset = (
        weight.storage_offset() % whole // stride
        if whole and weight.dim() > 2
        else (weight.storage_offset() // stride if stride else 0)
    )
    return tuple((start + offset, stop + offset) for start, stop in rows)


def _by_itself(origin: Origin, readings: Readings) -> None:
    role = ""
    if origin.kind == "embedding" and not origin.modes & {"learned", "constant"}:
        role = "embedding"
    elif (origin.kind == "conv" and origin.first and origin.patch) or (
        origin.kind == "linear" and origin.first and any("pixel" in m for m in origin.modes)
    ):
        role = "patch_embed"
    for name in origin.weights if role else ():
        readings[name].add(role)


def _mlp(origin: Origin, readings: Readings) -> None:
    """Find a contraction that ends an MLP: fed by readers of the stream, added to the stream."""
    feeding = origin.inputs
    if origin.kind != "linear" or not origin.joined or origin.stream or origin.calls:
        return
    if not feeding or not all(o.kind == "linear" and o.stream and not o.calls for o in feeding):
        return
    if any(readings[name].roles & _ATTENTION for o in feeding for name in o.weights):
        return
    for name in origin.weights:
        readings[name].add("mlp.down")
    if origin.glu is None or not _gated(origin.glu, feeding, readings):
        for o in feeding:
            for name in o.weights:
                readings[name].add("mlp.up")


def _gated(glu: tuple[Known, Known], feeding: frozenset[Origin], readings: Readings) -> bool:
    """Add gate and up, told apart by the activation; False where both sides are the same rows."""
    gate, up = glu
    shared = gate.origins & up.origins & feeding
    sides = {"mlp.gate": gate, "mlp.up": up}
    rows = {(role, o): _moved(rows_at(sides[role], o) or None, o) for role in sides for o in shared}
    if any(rows["mlp.gate", o] == rows["mlp.up", o] for o in shared):
        return False
    for role, known in sides.items():
        for o in known.origins & feeding:
            for name in o.weights:
                readings[name].add(role, rows.get((role, o)))
    return True


_ATTENTION = {"attention.q", "attention.k", "attention.v", "attention.proj"}


def _head(known: Known, readings: Readings) -> None:
    if known.stream or known.activated or known.scores or len(known.origins) != 1:
        return
    (origin,) = known.origins
    if origin.kind != "linear" or origin.calls:
        return
    for name in origin.weights:
        if not readings[name].roles - {"embedding"}:
            readings[name].add("head")
