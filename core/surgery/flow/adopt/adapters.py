"""What is done with the adapters that a checkpoint holds: refused, dropped, or split off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from surgery.checkpoint.legacy.adapters import (
    adapter_config,
    demand_scale,
    ranks_of,
    refuse_adapters,
    refuse_unsplittable,
    saved_adapter,
)
from surgery.checkpoint.legacy.find import metadata_of
from surgery.checkpoint.legacy.resolve import demand_paths
from surgery.checkpoint.legacy.shapes import Shown
from surgery.checkpoint.writer import write_tensors
from surgery.errors import RecipeError
from surgery.flow.adopt.task import Found

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def with_adapters(found: Found) -> Found:
    """Do with adapters what the user chose.

    Raises:
        PatientError: there are some and nothing was chosen, or they cannot be split off.
        RecipeError: alpha or scaling are neither given nor known.
    """
    resolved, wishes, where = found.resolved, found.task.wishes, found.where
    if wishes.adapters is None or not resolved.adapters:
        if wishes.adapters is not None:
            raise RecipeError("--adapters", "adapters in the file", "none", "leave it out")
        refuse_adapters(resolved.adapters, where)
        return found
    if wishes.adapters == "drop":
        gone = dict.fromkeys(resolved.adapters.names, "an adapter's")
        return replace(found, resolved=replace(resolved, dropped={**resolved.dropped, **gone}))
    refuse_unsplittable(resolved.adapters, where)
    demand_paths(resolved, where)
    tensors = resolved.state.tensors
    ranks = [
        Shown(f"rank of adapter {name}", rank, f"{len(at)} modules")
        for name, pieces in resolved.adapters.pieces.items()
        for rank, at in _by_rank(ranks_of(pieces, tensors)).items()
    ]
    told = metadata_of(found.legacy.tree)
    scales = demand_scale(wishes.lora_alpha, wishes.lora_scaling, told)
    return replace(found, scales=scales, shown=(*found.shown, *ranks))


def _by_rank(ranks: Mapping[str, int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for path, rank in ranks.items():
        found.setdefault(rank, []).append(path)
    return dict(sorted(found.items()))


def write_adapters(found: Found, folder: Path) -> list[str]:
    """Write each adapter into a folder of its own, as PEFT reads it.

    Returns:
        The folders' names.
    """
    if found.scales is None:
        return []
    (alpha, rslora, _), resolved = found.scales, found.resolved
    tensors, written = resolved.state.tensors, []
    for number, pieces in enumerate(resolved.adapters.pieces.values()):
        place = folder / f"adapter-{number}"
        place.mkdir()
        ranks = ranks_of(pieces, tensors)
        config = adapter_config(pieces, ranks, resolved.paths, alpha, rslora)
        write_tensors(place / WEIGHTS, saved_adapter(pieces, tensors, resolved.paths))
        (place / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        written.append(place.name)
    return written
