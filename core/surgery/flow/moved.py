"""Tensors that are the base's under another name, where files hold them in another form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from surgery.checkpoint.header import TensorEntry
from surgery.operate.dtypes import dtype_of
from surgery.operate.edits import Keep
from surgery.operate.slots import Base, Origin, Slot

if TYPE_CHECKING:
    from surgery.flow.draft import Draft


@dataclass(frozen=True)
class Moved:
    """What moves in the form in which it is stored.

    Attributes:
        names: the tensors of the result that do.
        parts: what files hold of them afterwards: name, and the entry of the base's file.
    """

    names: frozenset[str] = frozenset()
    parts: Mapping[str, TensorEntry] = field(default_factory=dict)


def moved_parts(draft: Draft) -> Moved:
    """Find the converted tensors that another place takes over whole, such as moved experts.

    Their stored parts are taken over one by one, so that no conversion has to be undone.

    Args:
        draft: the operation and the base's files.
    """
    names: set[str] = set()
    parts: dict[str, TensorEntry] = {}
    held = {n: e for header in draft.headers.values() for n, e in header.entries.items()}
    for name, old in _whole(draft):
        before, after = _stored_as(draft, old), _stored_as(draft, name)
        if len(before) == len(after) and set(before) <= held.keys():
            names.add(name)
            parts |= {new: held[key] for key, new in zip(before, after, strict=True)}
    return Moved(frozenset(names), parts)


def _whole(draft: Draft) -> Iterator[tuple[str, str]]:
    """Give the tensors that are a converted one of the base unchanged, and its name."""
    naming = draft.naming
    joined = {t for targets in naming.parts.values() if len(targets) > 1 for t in targets}
    for name, slot in draft.operation.plan.slots.items():
        old = None if draft.stored(slot) else _origin(slot)
        if old in naming.converted and old not in joined:
            yield name, str(old)


def _origin(slot: Slot) -> str | None:
    """Give the tensor of the base whose values a slot keeps, in the same form."""
    found: Origin = slot
    while isinstance(found, Slot):
        if not isinstance(found.value, Keep):
            return None
        found = found.sources[0]
    dtype = str(found.tensor.dtype).removeprefix("torch.")
    same = (tuple(found.tensor.shape), dtype) == (slot.shape, slot.dtype)
    return found.name if isinstance(found, Base) and same else None


def _stored_as(draft: Draft, name: str) -> list[str]:
    """Give the names in files of the parts of one tensor, in an order that depends on its form."""
    row = draft.rows.get(name)
    rows = {n: r for r in draft.operation.plan.before for n in (r.name, *r.aliases)}
    shown = row or rows[name]
    empty = torch.empty(shown.shape, dtype=dtype_of(shown.dtype), device="meta")
    model = draft.operation.patient.model
    return list(draft.source.store_as(model, draft.naming, {name: empty}))
