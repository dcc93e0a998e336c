"""The six steps: caption, noise, logits, soft choice, mask, loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from surgery.errors import TrainingError
from surgery.operate.objective import Batch, Step
from surgery_plugins.objectives.pseudo_gumbel.caption import captions, said
from surgery_plugins.objectives.pseudo_gumbel.pointing import pointed
from surgery_plugins.objectives.pseudo_gumbel.soften import Choice, chosen, mixed, replaced
from surgery_plugins.objectives.segmentation.loss import bounds, losses, measured

if TYPE_CHECKING:
    from surgery_plugins.objectives.pseudo_gumbel.objective import PseudoGumbel
    from surgery_plugins.objectives.pseudo_gumbel.teacher import Teacher


def run(objective: PseudoGumbel, model: Any, teacher: Teacher, batch: Batch) -> Step:
    """Give loss and metrics of a batch.

    Raises:
        TrainingError: an invariant of one of the steps does not hold.
    """
    learning = torch.is_grad_enabled()
    caption = teacher.ask(model, lambda asked: captions(asked, batch, objective.tokens))
    noise = objective.replace if learning else 0.0
    heard = [replaced(one, noise, batch["allowed"]) for one in caption]
    seen = model.see(batch["pixel_values"])
    logits = _barred(said(model, batch, seen, heard), batch["allowed"])
    k = min(objective.k, len(batch["allowed"]))
    choice = chosen(logits, k, objective.tau, learning)
    soft = mixed(model.get_input_embeddings(), choice)
    if learning:
        _watch(soft)
    texts = torch.split(soft, [len(one) for one in caption])
    shown = model.see(batch["next_pixel_values"]) if "next_pixel_values" in batch else seen
    found = pointed(model, batch, shown, texts, objective.seg_state == "before")
    masks = model.segment(batch["sam_pixel_values"], found.hidden).float()
    step = _judged(objective, masks, found.surprise, batch)
    step.metrics = {**step.metrics, **_told(choice, torch.cat(caption), batch)}
    return step


def _barred(logits: Tensor, allowed: Tensor) -> Tensor:
    """Leave only tokens that captions are made of."""
    barred = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    barred[allowed] = False
    return logits.float().masked_fill(barred, -torch.inf)


def _watch(soft: Tensor) -> None:
    """Stop where no gradient goes through the caption: it is what this objective is for.

    Raises:
        TrainingError: nothing before the caption is trained.
    """
    if not soft.requires_grad:
        raise TrainingError(
            _CAPTION, _WANTED, "no gradient at all",
            "train something of the language model or the connector, such as LoRA",
        )  # fmt: skip
    soft.register_hook(_alive)  # type: ignore[no-untyped-call]


def _alive(gradient: Tensor) -> None:
    if not bool(gradient.any()):
        raise TrainingError(
            _CAPTION, _WANTED, "exactly zero", "the masks are saturated, or the caption is masked"
        )


_CAPTION, _WANTED = (
    "train.objective (pseudo-gumbel): embeddings of the caption", "a gradient from the mask's loss",
)  # fmt: skip


def _judged(objective: PseudoGumbel, masks: Tensor, surprise: Tensor, batch: Batch) -> Step:
    """Weigh cross entropy and Dice of masks, and the surprise of the answer."""
    target, valid = batch["target"], batch["valid"]
    size = (target.shape[-2], target.shape[-1])
    large = interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    both = (large, target.float(), valid.float())
    entropy, dice = losses(*both, (1.0, 0.0)), losses(*both, (0.0, 1.0))
    each = objective.bce * entropy + objective.dice * dice + objective.anchor * surprise
    loss, count = each.mean(), float(len(masks))
    sums = {"bce": entropy, "dice_of_ceiling": dice, "surprise": surprise}
    metrics: dict[str, tuple[Tensor | float, Tensor | float]] = {
        name: (one.detach().sum(), count) for name, one in sums.items()
    }
    low, high = bounds(masks, loss)
    if objective.bce == 0 and objective.anchor == 0:
        high = objective.dice
    return Step(loss, {**metrics, **measured(large, target, valid)}, (low, high))


@torch.no_grad()
def _told(choice: Choice, caption: Tensor, batch: Batch) -> dict[str, tuple[Tensor | float, float]]:
    """Say how student and teacher agree, and whether captions still differ."""
    count, samples = float(len(caption)), float(len(batch["cells"]))
    chances = choice.logits.softmax(-1)
    entropy = -(chances * chances.clamp_min(1e-20).log()).sum(-1)
    return {
        "agreement": ((choice.index[:, 0] == caption).float().sum(), count),
        "entropy": (entropy.sum(), count),
        "distinct": (float(len(torch.unique(caption))), count),
        "caption_tokens": (count, samples),
        "region_cells": (float(sum(int(one.sum()) for one in batch["cells"])), samples),
    }
