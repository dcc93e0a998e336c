"""Labels in a configuration of transformers, by number and name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def names_of(config: Any) -> list[str]:
    """Give the names of a configuration's labels, in the order of their numbers."""
    table = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    return [table[number] for number in sorted(table)]


def label_settings(labels: int | Sequence[str]) -> dict[str, Any]:
    """Give what the configuration must say for labels: a number, or names in order.

    Labels without names are called ``LABEL_0`` and so on, as transformers does.
    """
    names = [f"LABEL_{n}" for n in range(labels)] if isinstance(labels, int) else list(labels)
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }


def rows_kept(before: Sequence[str], after: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Give new and old number of every label that is there before and after."""
    old = {name: number for number, name in enumerate(before)}
    return tuple((number, old[name]) for number, name in enumerate(after) if name in old)
