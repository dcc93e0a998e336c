"""Read a connector's kind and sizes off the shapes of its tensors. Pure; no weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from surgery.errors import IntegrityError
from surgery_plugins.surgeries.resampler.kind import Kind, Shapes, Value
from surgery_plugins.surgeries.resampler.kinds import KINDS


@dataclass(frozen=True)
class Inferred:
    """A connector that shapes show.

    Attributes:
        kind: its kind.
        prefix: what stands before its names, the last dot included.
        sizes: what the shapes tell: value, and the full name of the tensor that tells it.
        candidates: for each size that they do not tell, what they leave possible.
        names: the stored name of each of the connector's own tensor names.
    """

    kind: str
    prefix: str
    sizes: Mapping[str, tuple[Value, str]]
    candidates: Mapping[str, str]
    names: Mapping[str, str]

    def shapes(self, stored: Shapes) -> dict[str, tuple[int, ...]]:
        """Give the shapes by the connector's own names."""
        return {own: tuple(stored[name]) for own, name in self.names.items()}


def infer(
    shapes: Shapes,
    *,
    kind: str | None = None,
    prefix: str | None = None,
    known: Mapping[str, Value] | None = None,
) -> tuple[Inferred, ...]:
    """Find the connectors among the tensors of a checkpoint, by names and shapes alone.

    A connector is a prefix below which every tensor belongs to one kind; what lies inside a
    larger connector is none of its own.

    Args:
        shapes: shapes of all tensors by name.
        kind: look for this kind only.
        prefix: look below this prefix only, such as ``model.connector``.
        known: sizes that are known already, which may tell others (one of heads and head_dim).

    Returns:
        What fits; empty where nothing does, several where the shapes leave a choice.
    """
    kinds = [KINDS[kind]] if kind else list(KINDS.values())
    found: dict[tuple[str, frozenset[str]], Inferred] = {}
    for start, below in _groups(shapes, prefix):
        for one in kinds:
            match = _match(one, start, below, known or {})
            if match is not None:
                found.setdefault((one.name, frozenset(match.names.values())), match)
    return tuple(
        one for (_, own), one in found.items() if not any(own < other for _, other in found)
    )


def infer_one(
    shapes: Shapes,
    where: str,
    *,
    kind: str | None = None,
    prefix: str | None = None,
    known: Mapping[str, Value] | None = None,
) -> Inferred:
    """Find the one connector among the tensors of a checkpoint.

    Args:
        shapes: as in ``infer``.
        where: how errors name the checkpoint.
        kind: as in ``infer``.
        prefix: as in ``infer``.
        known: as in ``infer``.

    Raises:
        IntegrityError: there is none, or several fit; the message lists them.
    """
    found = infer(shapes, kind=kind, prefix=prefix, known=known)
    if len(found) == 1:
        return found[0]
    wanted = f"the tensors of one connector{f' of kind {kind}' if kind else ''}"
    wanted += f" below {prefix!r}" if prefix else ""
    if not found:
        names = ", ".join(sorted(shapes)[:3])
        raise IntegrityError(
            where, wanted, f"none that fits among {len(shapes)} ({names} ...)",
            "say where they are with `prefix:` and what they are with `kind:`",
        )  # fmt: skip
    options = ", ".join(f"{one.kind} below {one.prefix!r}" for one in found)
    raise IntegrityError(where, wanted, f"{len(found)}: {options}", "give `kind:` and `prefix:`")


def _groups(shapes: Shapes, prefix: str | None) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Give every prefix and the tensors below it, shortest prefix first."""
    if prefix is not None:
        starts = {prefix.rstrip(".") + "." if prefix.rstrip(".") else ""}
    else:
        starts = {""} | {n[: i + 1] for n in shapes for i, sign in enumerate(n) if sign == "."}
    groups: dict[str, dict[str, tuple[int, ...]]] = {start: {} for start in starts}
    for name, shape in shapes.items():
        ends = [0, *(i + 1 for i, sign in enumerate(name) if sign == ".")]
        for start in (name[:end] for end in ends):
            if start in groups:
                groups[start][name[len(start) :]] = tuple(shape)
    yield from sorted(groups.items(), key=lambda group: (len(group[0]), group[0]))


def _match(kind: Kind, prefix: str, below: Shapes, known: Mapping[str, Value]) -> Inferred | None:
    own = kind.rename(below)
    renamed = {own[name]: shape for name, shape in below.items()}
    fits = len(renamed) == len(below) and all(kind.names.fullmatch(name) for name in renamed)
    told = kind.tell(renamed, known) if fits and renamed else None
    if told is None:
        return None
    stored = {ours: name for name, ours in own.items()}
    sizes = {
        name: (value, prefix + stored.get(tensor, tensor))
        for name, (value, tensor) in told.sizes.items()
    }
    left = {name: text for name, text in told.candidates.items() if name not in sizes}
    return Inferred(kind.name, prefix, sizes, left, {o: prefix + n for o, n in stored.items()})
