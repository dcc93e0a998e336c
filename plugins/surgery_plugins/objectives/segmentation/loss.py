"""Binary cross entropy and Dice of masks, with the bounds of both, and what is measured."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import interpolate

from surgery.errors import TrainingError
from surgery.operate.objective import Step

SATURATED = 88.0
"""Logit from which on a sigmoid in float32 is 0 or 1: its exponential leaves the range."""


def judged(
    logits: Tensor, target: Tensor, valid: Tensor, weights: tuple[float, float], least: bool
) -> Step:
    """Compare masks with what they should be, at the images' own resolution.

    Args:
        logits: ``(batch, masks, rows, columns)``.
        target: ``(batch, height, width)``, True where the object is.
        valid: ``(batch, height, width)``, False in padding.
        weights: of the binary cross entropy and of the Dice loss.
        least: of several masks take the one with the least loss.

    Raises:
        TrainingError: there are several masks and one was wanted, or all are one number.
    """
    chosen = _chosen(logits.float(), target, valid, weights, least)
    _check_alive(chosen)
    size = (target.shape[-2], target.shape[-1])
    masks = interpolate(chosen[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    loss = losses(masks, target.float(), valid.float(), weights).mean()
    return Step(loss, measured(masks, target, valid), bounds(chosen, loss))


def losses(logits: Tensor, target: Tensor, valid: Tensor, weights: tuple[float, float]) -> Tensor:
    """Give the loss of each mask: its mean cross entropy, and one minus Dice, weighted.

    Dice is ``(2 |p t| + 1) / (|p| + |t| + 1)`` with sigmoids as ``p`` (Milletari et al., V-Net,
    2016; the ones as in SAM 2's training code). The cross entropy is 0 or more, the Dice loss lies
    from 0 to 1.

    Args:
        logits: ``(..., height, width)``.
        target: 0 to 1, of a shape that goes with it.
        valid: 1 where it counts.
        weights: of cross entropy and Dice.
    """
    axes, wide = (-2, -1), target.expand_as(logits)
    each = cross_entropy(logits, wide, reduction="none") * valid
    entropy = each.sum(axes) / valid.sum(axes).clamp_min(1)
    p, t = logits.sigmoid() * valid, target * valid
    dice = (2 * (p * t).sum(axes) + 1) / (p.sum(axes) + t.sum(axes) + 1)
    return weights[0] * entropy + weights[1] * (1 - dice)


def bounds(logits: Tensor, loss: Tensor) -> tuple[float, float | None]:
    """Give the least loss, and the greatest where it has one.

    Cross entropy has no greatest value as long as a logit may grow. Where every sigmoid is exactly
    0 or 1 in float32 none can move, and the loss is at its bound, whatever it is.
    """
    stuck = bool((logits.detach().abs() >= SATURATED).all())
    return 0.0, float(loss.detach()) if stuck else None


def measured(logits: Tensor, target: Tensor, valid: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Give sums of Dice and of intersection over union, each with the number of images.

    Two empty masks agree: both measures are 1.
    """
    with torch.no_grad():
        found, wanted = (logits > 0) & valid, target & valid
        both = (found & wanted).sum((-2, -1)).float()
        sizes = found.sum((-2, -1)) + wanted.sum((-2, -1))
        dice = torch.where(sizes > 0, 2 * both / sizes.clamp_min(1), 1.0)
        union = sizes - both
        iou = torch.where(union > 0, both / union.clamp_min(1), 1.0)
        count = torch.tensor(float(len(both)))
    return {"dice": (dice.sum(), count), "iou": (iou.sum(), count)}


def _chosen(
    logits: Tensor, target: Tensor, valid: Tensor, weights: tuple[float, float], least: bool
) -> Tensor:
    """Give one mask for each image, ``(batch, rows, columns)``."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    if not least:
        raise TrainingError(
            "train.objective (segmentation): masks", "one for each image", str(logits.shape[1]),
            "write `masks: least` to train the best of several, or name one with `output`",
        )  # fmt: skip
    with torch.no_grad():
        size = (logits.shape[-2], logits.shape[-1])
        both = torch.stack((target, valid), 1).float()
        small = interpolate(both, size, mode="bilinear", align_corners=False, antialias=True)
        order = losses(logits, small[:, :1], small[:, 1:], weights).argmin(1)
    return logits[torch.arange(len(logits), device=logits.device), order]


def _check_alive(logits: Tensor) -> None:
    """Stop where something wrote a constant over all masks of a batch that is to teach.

    Raises:
        TrainingError: each mask is one number from which no gradient comes.
    """
    if not torch.is_grad_enabled():
        return
    low, high = logits.detach().amin((-2, -1)), logits.detach().amax((-2, -1))
    if bool(((low == high) & (low.abs() >= SATURATED)).all()):
        raise TrainingError(
            "train.objective (segmentation): logits of masks", "numbers that differ from place to "
            "place", f"{float(low[0]):g} everywhere, in all {len(low)} images",
            "the model writes this over masks whose object score is low, and no gradient passes; "
            "take the masks from before that, out of prompt encoder and mask decoder",
        )  # fmt: skip
