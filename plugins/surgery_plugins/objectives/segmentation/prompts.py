"""Prompts: points and boxes drawn from a mask, and texts as token ids."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import Tensor

from surgery.operate.objective import Sample
from surgery.operate.patient import Patient

INSIDE, FIRST, SECOND, NOWHERE = 1, 2, 3, -1
"""Labels of points in SAM's prompt encoders: in the object, corners of a box, no point."""


def points(target: Tensor, count: int, random: Random) -> dict[str, Tensor]:
    """Draw points in the object, with replacement.

    Args:
        target: ``(height, width)``, True where the object is.
        count: how many.
        random: draws them.

    Returns:
        ``points`` ``(count, 2)``, columns and rows in pixels; ``labels`` ``(count,)``.

    Raises:
        ValueError: there is no object.
    """
    places = _object(target)
    chosen = places[[random.randrange(len(places)) for _ in range(count)]]
    labels = torch.full((count,), INSIDE, dtype=torch.int32)
    return {"points": chosen.flip(-1).float(), "labels": labels}


def box(target: Tensor, jitter: float, random: Random) -> dict[str, Tensor]:
    """Draw a box around the object, each side moved at random.

    A box is two points with labels of their own, as prompt encoders of SAM see it.

    Args:
        target: ``(height, width)``, True where the object is.
        jitter: most that a side moves, as a share of the box.
        random: draws by how much.

    Returns:
        ``points`` ``(2, 2)``, columns and rows in pixels of the corners; ``labels`` ``(2,)``.

    Raises:
        ValueError: there is no object.
    """
    places = _object(target).flip(-1)
    low, high = places.amin(0).tolist(), (places.amax(0) + 1).tolist()
    limits = (target.shape[1], target.shape[0])
    corners = [[0.0, 0.0], [0.0, 0.0]]
    for corner, sides in enumerate((low, high)):
        for axis, side in enumerate(sides):
            moved = side + random.uniform(-jitter, jitter) * (high[axis] - low[axis])
            corners[corner][axis] = min(max(moved, 0.0), float(limits[axis]))
    return {
        "points": torch.tensor(corners),
        "labels": torch.tensor([FIRST, SECOND], dtype=torch.int32),
    }


def _object(target: Tensor) -> Tensor:
    """Give rows and columns of the object, ``(pixels, 2)``."""
    places = target.nonzero()
    if not len(places):
        raise ValueError("a mask without an object, of which no prompt can be drawn")
    return places


def text(sample: Sample, patient: Patient) -> dict[str, Tensor]:
    """Turn the text of a sample into token ids.

    Returns:
        ``input_ids`` and ``attention_mask``, ``(length,)``.

    Raises:
        ValueError: the sample has no text, or it is longer than the model's positions.
    """
    words = sample.get("text")
    if not isinstance(words, str) or not words:
        raise ValueError("a sample without `text`, which the prompt is to be")
    ids = list(patient.tokenizer(words)["input_ids"])
    most = _positions(patient.config)
    if most is not None and len(ids) > most:
        raise ValueError(f"a text of {len(ids)} tokens for {most} positions")
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.ones(len(ids), dtype=torch.long),
    }


def _positions(config: Any) -> int | None:
    found = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
    return found if isinstance(found, int) else None
