"""What backbones of transformers name after their layers: the stages that they give out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError
from surgery.operate.edits import SetConfig
from surgery_plugins.surgeries.fresh.settings import joined, parts

if TYPE_CHECKING:
    from surgery_plugins.surgeries.layers.order import Order

_HELD = ("_out_features", "_out_indices")
"""Where a configuration holds the stages that are given out; they must name each other."""


def stage_settings(part: Any, key: str, count: int, order: Order) -> dict[str, Any]:
    """Give the stages of a configuration whose stages are layers, by dotted key; else nothing.

    Stage 0 is what comes before the layers; the output of the last layer stays that of the last.

    Args:
        part: the part of the configuration that counts the layers.
        key: its dotted key.
        count: how many layers there were.
        order: the layers afterwards.

    Raises:
        RefusedError: a stage that is given out has no layer any longer.
    """
    names = vars(part).get("stage_names")
    if not isinstance(names, list) or len(names) != count + 1:
        return {}
    root = re.sub(r"\d+$", "", names[-1])
    new = [names[0], *(f"{root}{number}" for number in range(1, len(order) + 1))]
    given = sorted({_stage(n % len(names), names, order) for n in vars(part)["_out_indices"]})
    return {
        joined(key, "stage_names"): new,
        joined(key, "_out_features"): [new[number] for number in given],
        joined(key, "_out_indices"): given,
    }


def stage_edits(before: Any, after: Any) -> Iterator[SetConfig]:
    """Give the edits of what is given out, which a configuration holds for itself."""
    for (key, old), (_, new) in zip(parts(before), parts(after), strict=True):
        for name in _HELD:
            if vars(old).get(name) != vars(new).get(name):
                yield SetConfig(joined(key, name), vars(new)[name])


def _stage(number: int, names: list[str], order: Order) -> int:
    """Give the number of a stage afterwards: that of the last layer that is the same."""
    if number in (0, len(names) - 1):
        return len(order) if number else 0
    places = [place for place, block in enumerate(order) if block.source == number - 1]
    if not places:
        raise RefusedError(
            "layers: the configuration", "layers whose outputs the backbone gives to be left",
            f"out_features names {names[number]}, whose layer is gone",
            f"keep layer {number - 1}, or change out_features first",
        )  # fmt: skip
    return places[-1] + 1
