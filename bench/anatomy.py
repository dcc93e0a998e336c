"""Roles on every architecture of transformers: how many have them, by what evidence (row 11)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from surgery.anatomy.walk import walk
from tests.anatomy.test_every_architecture import SAMPLE, Tally, check
from tests.zoo.architectures import build, class_names, model_types

GOAL = 500


def run(*, quick: bool = False) -> dict[str, Any]:
    """Walk each architecture from its default configuration, few layers deep, on meta."""
    torch.set_num_threads(1)
    tally, found = Tally(), Counter[str]()
    for model_type in SAMPLE[:8] if quick else model_types():
        check(model_type, tally)
        found.update(_evidence(model_type, name) for name in class_names(model_type))
    known = sum(found[kind] for kind in KINDS[:3])
    goal = f" (goal {GOAL}: {'met' if known >= GOAL else 'missed'})"
    return {
        "what": "architectures of transformers whose roles are read, by the best evidence",
        "rows": [{"evidence": kind, "architectures": found[kind]} for kind in KINDS],
        "verdicts": [
            f"{known} of {sum(found.values()) - found['does not build']} have roles"
            + ("" if quick else goal),
            f"where a forward with attention ran ({tally.attention} architectures, {tally.calls} "
            f"calls, {tally.fused} fused weights), laws that need no names: {len(tally.wrong)} "
            f"broken (goal 0: {'missed' if tally.wrong else 'met'})",
            "roles that rest on names alone are heuristics, which these laws do not reach",
        ],
    }


KINDS = (
    "a forward of the whole model", "forwards of parts, and names", "names", "none",
    "does not build",
)  # fmt: skip


def _evidence(model_type: str, name: str) -> str:
    try:
        model = build(model_type, name)
    except Exception:
        return "does not build"
    anatomy = walk(model)
    kinds = {site.evidence for site in anatomy if site.roles}
    whole = not any("no forward of the whole model" in note for note in anatomy.notes)
    if "trace" in kinds and whole:
        return KINDS[0]
    return KINDS[1] if "trace" in kinds else KINDS[2] if kinds else KINDS[3]
