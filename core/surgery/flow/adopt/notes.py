"""What the reader of an adoption should know: what shapes show, and what could not be proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from surgery.checkpoint.legacy.shapes import shown_by
from surgery.flow.adopt.task import Found
from surgery.operate.dtypes import name_of


def with_notes(found: Found) -> Found:
    """Add what shapes show, and what could not be proven."""
    resolved, notes = found.resolved, list(found.legacy.notes)
    if found.legacy.left_out:
        notes.append(f"objects read past: {', '.join(found.legacy.left_out)}")
    if found.source is None:
        notes.append(
            "no structure was declared: whether tensors are missing, too many or of wrong shape, "
            "what they tie, and whether names keep a prefix could not be proven"
        )
        notes += _suspicions(list(resolved.entries))
    shown = shown_by({name: entry.shape for name, entry in resolved.entries.items()})
    return replace(found, shown=tuple(shown), notes=(*notes, *_dtypes(found)))


def _suspicions(names: Sequence[str]) -> list[str]:
    """Say what may still be a wrapper's in names that nothing was compared with."""
    heads = {name.partition(".")[0] for name in names if "." in name}
    found = []
    numbered = all(name.split(".")[1:2] and name.split(".")[1].isdigit() for name in names)
    if len(heads) == 1 and not numbered and all("." in name for name in names):
        head = heads.pop()
        found.append(f"every name begins with '{head}.'; if that is a wrapper's: --prefix {head}=")
    if any(".module." in f".{name}" for name in names):
        found.append("some names hold 'module.', which may be a wrapper's: --rename module=")
    return found


def _dtypes(found: Found) -> list[str]:
    if found.patient is None:
        return []
    wanted = found.patient.model.state_dict()
    other = {
        (entry.dtype, name_of(wanted[name].dtype))
        for name, entry in found.resolved.entries.items()
        if name in wanted and name_of(wanted[name].dtype) != entry.dtype
    }
    return [f"some tensors are {a}, and loading makes them {b}" for a, b in sorted(other)]
