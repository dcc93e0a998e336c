"""Show what a checkpoint of another tool holds, and what was made of it."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from surgery.checkpoint.dtypes import size_of
from surgery.flow.adopt.components import checks_of
from surgery.flow.adopt.task import Found
from surgery.flow.adopt.write import Adopted
from surgery.report.outcome import check_lines
from surgery.report.plan import human_bytes


def adopt_json(found: Found, adopted: Adopted | None) -> dict[str, Any]:
    """Give what was found, and what was written if anything was, as JSON values."""
    resolved = found.resolved
    checks = adopted.checks if adopted else checks_of(found.components)
    return {
        "key": resolved.state.key,
        "tensors": len(resolved.entries),
        "bytes": _bytes(found),
        "prefix": {"from": resolved.prefix.old, "to": resolved.prefix.new},
        "wrappers": list(resolved.words),
        "form": resolved.form,
        "pairs": [pair.to_json() for pair in resolved.pairs],
        "dropped": resolved.dropped,
        "components": [one.to_json() for one in found.components],
        "complete": found.complete,
        "shown": [one.to_json() for one in found.shown],
        "numbers": [one.to_json() for one in found.fitted],
        "notes": list(found.notes),
        "checks": [check.to_json() for check in checks],
        "folder": str(adopted.folder) if adopted else None,
        "adapters": list(adopted.adapters) if adopted else [],
    }


def adopt_text(found: Found, adopted: Adopted | None) -> str:
    """Give the same for people."""
    checks = adopted.checks if adopted else checks_of(found.components)
    return "\n".join([*_lines(found), "proof:", *check_lines(checks), *_end(found, adopted)])


def _lines(found: Found) -> Iterator[str]:
    resolved = found.resolved
    count = len(resolved.entries)
    yield f"{found.where}: {count} tensors, {human_bytes(_bytes(found))}, in {resolved.state.key}"
    if resolved.words:
        yield f"wrappers taken out of names: {', '.join(resolved.words)}"
    if resolved.prefix.old or resolved.prefix.new:
        yield f"prefix: '{resolved.prefix.old}' -> '{resolved.prefix.new}'"
    for kind in sorted({pair.kind for pair in resolved.pairs}):
        names = [pair.name for pair in resolved.pairs if pair.kind == kind]
        yield f"{kind} made plain: {_some(names)}"
    for why in sorted(set(resolved.dropped.values())):
        yield f"not written, {why}: {_some([n for n, w in resolved.dropped.items() if w == why])}"
    for shown in found.shown:
        yield f"{shown.what}: {shown.value} ({shown.evidence})"
    for one in found.fitted:
        if one.before is not None:
            yield f"{one.name}: {one.value} by {one.origin} (declared: {one.before})"
    for note in found.notes:
        yield f"note: {note}"


def _end(found: Found, adopted: Adopted | None) -> Iterator[str]:
    yield ""
    if adopted is None:
        yield "nothing was written; give --output DIR to write it"
        return
    for name in adopted.adapters:
        yield f"adapter: {adopted.folder / name}"
    whole = "a whole model" if found.complete else "weights without a model around them"
    yield f"written to {adopted.folder}: {whole}"


def _bytes(found: Found) -> int:
    return sum(prod(e.shape) * size_of(e.dtype) for e in found.resolved.entries.values())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
