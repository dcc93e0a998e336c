"""Observe repeated layers once: what was read of one holds for those that are alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from surgery.anatomy.fold import Fold
from surgery.anatomy.observed import Observed
from surgery.anatomy.trace import Trace

_READ = 1
"""Which layer of a group is read for the others: the first may see something of its own."""


def fold_of(model: nn.Module, trace: Trace) -> Fold:
    """Give a fold that a trace looks through.

    Of each group of alike layers there run the first three, the last, and the one after that
    which is read, since it may be what shows where the layer's output goes. Layers that share
    parameters with anything else all run.
    """
    shared = {name for held in trace.holders.values() if len(held) > 1 for _, name in held}

    def always(group: Sequence[str]) -> frozenset[str]:
        if len(group) < 5 or any(_below(name, path) for path in group for name in shared):
            return frozenset(group)
        container, _, number = group[_READ].rpartition(".")
        after = f"{container}.{int(number) + 1}" if container else str(int(number) + 1)
        return frozenset((*group[:3], group[-1], after))

    return Fold(model, mark=_marker(trace), stand_in=_follower(trace), always=always)


def _marker(trace: Trace) -> Callable[[Tensor], Hashable]:
    def mark(tensor: Tensor) -> Hashable:
        known = trace.known(tensor)
        if known is None:
            return None
        if known.is_weight:
            return object()  # each weight that is handed in is its own
        links = (known.origins, known.calls, known.scores, known.probs, known.glu)
        return known.modes, known.stream, known.activated, known.scaled, *map(bool, links)

    return mark


def _follower(trace: Trace) -> Callable[[Tensor, Tensor], None]:
    def follow(new: Tensor, old: Tensor) -> None:
        known = trace.known(old)
        if known is not None:
            trace.keep(replace(known, tensor=new))

    return follow


def repeated(seen: Observed, fold: Fold) -> Observed | None:
    """Give what was observed, with the layers that did not run read as those that did.

    None where the fold does not hold: the last layer of a group shows something else than the one
    that is read, or a layer ran at one call and not at another.
    """
    if fold.ran & fold.skipped:
        return None
    for group in sorted(fold.groups, key=_depth, reverse=True):
        skipped = [path for path in group if path in fold.skipped]
        if not skipped:
            continue
        if _told(seen, group[_READ]) != _told(seen, group[-1]):
            return None
        seen = _with(seen, group[_READ], skipped)
    return seen


def _depth(group: Sequence[str]) -> int:
    return group[0].count(".")


def _below(name: str, path: str) -> bool:
    return name.startswith(path + ".")


def _told(seen: Observed, path: str) -> dict[str, tuple[object, ...]]:
    return {
        name[len(path) :]: (reading.roles, reading.rows)
        for name, reading in seen.readings.items()
        if _below(name, path)
    }


def _with(seen: Observed, read: str, paths: Sequence[str]) -> Observed:
    """Add what was read of one layer to others that are alike."""
    start = read + "."
    readings = {n: told for n, told in seen.readings.items() if n.startswith(start)}
    direct = [name for name in seen.direct if name.startswith(start)]
    attention = [names for names in seen.attention if _touches(names, start)]
    mlp = [names for names in seen.mlp if _touches(names, start)]
    notes = [note for note in seen.notes if start in note]

    def moved(name: str, path: str) -> str:
        return f"{path}.{name.removeprefix(start)}" if name.startswith(start) else name

    def sets(groups: list[frozenset[str]]) -> tuple[frozenset[str], ...]:
        return tuple(frozenset(moved(n, path) for n in names) for path in paths for names in groups)

    return replace(
        seen,
        readings=seen.readings | {moved(n, path): readings[n] for path in paths for n in readings},
        attention=seen.attention + sets(attention),
        mlp=seen.mlp + sets(mlp),
        calls=seen.calls + len(paths) * len(attention),
        direct=seen.direct | {moved(name, path) for path in paths for name in direct},
        notes=(*seen.notes, *(n.replace(start, f"{path}.") for path in paths for n in notes)),
    )


def _touches(names: frozenset[str], start: str) -> bool:
    return any(name.startswith(start) for name in names)
