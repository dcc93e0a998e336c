"""Read sizes off the names and shapes of tensors, without knowing the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from surgery.checkpoint.legacy.declared import Shape

_NUMBER = re.compile(r"(?:^|\.)(\d+)\.")
_TABLE = 4
"""How many times longer than wide a matrix must be to be listed as a table, at least."""


@dataclass(frozen=True)
class Shown:
    """One size that names or shapes show.

    Attributes:
        what: such as ``layers of model.layers``.
        value: the size.
        evidence: what shows it.
    """

    what: str
    value: int
    evidence: str

    def to_json(self) -> dict[str, object]:
        """Give the size as JSON values."""
        return {"what": self.what, "value": self.value, "evidence": self.evidence}


def shown_by(shapes: Mapping[str, Shape]) -> list[Shown]:
    """Give numbers of layers, the common width, and rows of tables such as vocabularies."""
    return [*_layers(shapes), *_width(shapes), *_tables(shapes)]


def counted(names: Iterable[str]) -> dict[str, int]:
    """Count what is numbered from 0 without a gap, by its outermost container's path."""
    found: dict[str, set[int]] = {}
    for name in names:
        if number := _NUMBER.search(name):
            found.setdefault(name[: number.start()], set()).add(int(number[1]))
    return {path: len(n) for path, n in sorted(found.items()) if n == set(range(len(n)))}


def _layers(names: Iterable[str]) -> list[Shown]:
    return [
        Shown(f"layers of {path or 'the model'}", count, f"numbered 0 to {count - 1}")
        for path, count in counted(names).items()
        if count > 1
    ]


def _width(shapes: Mapping[str, Shape]) -> list[Shown]:
    """Give the commonest length of vectors, where half of them have it."""
    lengths = Counter(shape[0] for shape in shapes.values() if len(shape) == 1 and shape[0] > 1)
    if not lengths:
        return []
    width, count = lengths.most_common(1)[0]
    if 2 * count < lengths.total():
        return []
    return [Shown("width", width, f"{count} of {lengths.total()} vectors")]


def _tables(shapes: Mapping[str, Shape]) -> list[Shown]:
    """Give the rows of matrices that are much longer than wide, each number once."""
    tables: dict[tuple[int, int], list[str]] = {}
    for name, shape in shapes.items():
        if len(shape) == 2 and shape[0] > _TABLE * shape[1] > _TABLE:
            tables.setdefault((shape[0], shape[1]), []).append(name)
    return [
        Shown(f"rows of {names[0]}", rows, f"shape [{rows}, {width}]")
        for (rows, width), names in sorted(tables.items(), reverse=True)
        if len(names) < 3
    ]
