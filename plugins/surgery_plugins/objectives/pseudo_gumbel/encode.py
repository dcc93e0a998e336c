"""Samples as tensors: images for both parts, masks, cells of the region, and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surgery.operate.objective import Batch, Sample
from surgery_plugins.objectives.pseudo_gumbel.prompts import (
    CAPTION,
    REGION,
    Texts,
    allowed_of,
    prompts_of,
    seg_of,
)
from surgery_plugins.objectives.pseudo_gumbel.region import cells_of, side_of
from surgery_plugins.objectives.segmentation.picture import Picture, picture_of
from surgery_plugins.objectives.segmentation.tensors import fitted, read
from surgery_plugins.objectives.vision.slots import slots_of

if TYPE_CHECKING:
    from surgery.operate.patient import Patient
    from surgery_plugins.objectives.pseudo_gumbel.objective import Look, PseudoGumbel

_TEXTS = ("ask", "before")


def texts_of(objective: PseudoGumbel) -> Texts:
    """Give the templates, the one that asks for the mask cut at the caption."""
    before, after = objective.point.split(CAPTION)
    return Texts(objective.ask, before, after, objective.answer, objective.seg)


def pictures_of(objective: PseudoGumbel, patient: Patient) -> tuple[Picture, Picture]:
    """Say how images are prepared for the vision-language model, and for SAM 2.

    Raises:
        ValueError: neither options nor patient say it.
    """
    config = patient.config
    reading = replace(patient, config=config.vlm_config)
    masking = replace(patient, config=config.sam_config, processor=None)
    return _picture(reading, objective.vlm), _picture(masking, objective.sam)


def _picture(patient: Patient, look: Look) -> Picture:
    return picture_of(patient, look.size, look.mean, look.std)


def encoded(objective: PseudoGumbel, sample: Sample, patient: Patient) -> dict[str, Any]:
    """Prepare one sample.

    Raises:
        ValueError: it cannot be used.
    """
    first, second = pictures_of(objective, patient)
    given = read(sample, False)
    learned = _next(sample) if objective.next else given
    seen = fitted(given, first, objective.fit)
    masked = fitted(learned, second, objective.fit)
    slots = slots_of(patient, patient.config.vlm_config)
    asks = REGION in objective.ask
    cells = cells_of(seen["target"], side_of(slots.count)) if asks else seen["target"].new_zeros(0)
    if int(cells.sum()) < objective.least_cells:
        raise ValueError(
            f"expected a region of {objective.least_cells} cells at least, got {int(cells.sum())} "
            f"of {slots.count}; the object is too small, or lower `least_cells`"
        )
    prompts = prompts_of(texts_of(objective), patient, slots, int(cells.sum()))
    found = {
        "pixel_values": seen["pixel_values"], "cells": cells, **prompts,
        "sam_pixel_values": masked["pixel_values"], "target": masked["target"],
        "valid": masked["valid"],
    }  # fmt: skip
    if objective.next:
        found["next_pixel_values"] = fitted(learned, first, objective.fit)["pixel_values"]
    return found


def _next(sample: Sample) -> dict[str, Tensor]:
    missing = [name for name in ("next_image", "next_mask") if name not in sample]
    if missing:
        raise ValueError(f"a sample without `{missing[0]}`, which `next: true` learns from")
    return read({"image": sample["next_image"], "mask": sample["next_mask"]}, False)


def collated(objective: PseudoGumbel, rows: Sequence[Mapping[str, Any]], patient: Patient) -> Batch:
    """Make a batch; the texts behind the caption are the same in every sample."""
    batch: Batch = {
        name: torch.stack([row[name] for row in rows])
        for name in rows[0]
        if name not in (*_TEXTS, "after", "answer")
    }
    batch |= {name: [row[name] for row in rows] for name in _TEXTS}
    config, tokenizer = patient.config, patient.tokenizer
    return batch | {
        "after": rows[0]["after"], "answer": rows[0]["answer"],
        "allowed": allowed_of(tokenizer, config.get_text_config().vocab_size),
        "token": int(config.vlm_config.image_token_id), "end": tokenizer.eos_token_id,
        "seg": seg_of(tokenizer, objective.seg),
    }  # fmt: skip
