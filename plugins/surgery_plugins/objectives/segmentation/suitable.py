"""Say why a patient cannot learn masks: no masks, another prompt, or a geometry that is broken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from surgery.flow.prove import violations
from surgery.hooks.registry import registry
from surgery_plugins.objectives.segmentation.answer import accepted
from surgery_plugins.objectives.segmentation.run import way_through

if TYPE_CHECKING:
    from surgery.operate.patient import Patient
    from surgery_plugins.objectives.segmentation.objective import Segmentation


def unsuitable(objective: Segmentation, patient: Patient) -> str | None:
    """Give the first reason against a patient, or None."""
    return next(_reasons(objective, patient), None)


def _reasons(objective: Segmentation, patient: Patient) -> Iterator[str]:
    yield from _prompt(objective, patient)
    try:
        picture = objective.picture(patient)
    except ValueError as error:
        yield str(error)
        return
    images = torch.empty(1, 3, *picture.size, device="meta")
    yield from _geometry(patient, images)


def _prompt(objective: Segmentation, patient: Patient) -> Iterator[str]:
    """A prompt must be one that the model takes."""
    prompt, drawn = objective.prompt, ("box", "points", "mask", "none")
    if way_through(patient.model, objective.output) is not None:
        if objective.also:
            yield "its outputs are not made on the way through its parts; name `output` as well"
        if prompt not in drawn:
            yield f"its prompt encoder takes no {prompt}; write one of {', '.join(drawn)}"
    elif "input_ids" in accepted(patient.model):
        if prompt != "text":
            yield f"it takes texts, not the prompt '{prompt}'; write `prompt: text`"
        elif patient.tokenizer is None:
            yield "it takes texts and has no tokenizer; put its files beside the weights"
    elif prompt != "none":
        yield f"it takes no prompts, and '{prompt}' was asked for; write `prompt: none`"


def _geometry(patient: Patient, images: torch.Tensor) -> Iterator[str]:
    """Every contract must hold with images of the size that they will be given."""
    from dataclasses import replace

    seen = replace(patient, inputs={"pixel_values": images})
    for family, found in violations(seen, registry().families()):
        if isinstance(found, Exception):
            yield f"family {family} cannot read it: {found}"
        else:
            yield from map(str, found)
