"""One step: run the model the way that gives masks a gradient, and compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.functional import mse_loss

from surgery.errors import TrainingError
from surgery.operate.objective import Batch, Step
from surgery_plugins.objectives.segmentation.answer import called, masks_in, part
from surgery_plugins.objectives.segmentation.loss import judged
from surgery_plugins.objectives.segmentation.prompted import Prompted, prompted

if TYPE_CHECKING:
    from surgery_plugins.objectives.segmentation.objective import Segmentation


def way_through(model: nn.Module, output: str | None) -> Prompted | None:
    """Give the way through prompt encoder and mask decoder, unless an output is named."""
    return None if output is not None else prompted(model)


def run(objective: Segmentation, model: nn.Module, batch: Batch) -> Step:
    """Give loss and metrics of a batch.

    Raises:
        TrainingError: the model gives no masks, or masks that teach nothing.
    """
    several = objective.masks == "least"
    through = way_through(model, objective.output)
    found: Any = None
    if through is not None:
        logits = through.masks(batch, several)
    else:
        found = called(model, batch)
        logits = masks_in(found, objective.output)
    weights = (objective.bce, objective.dice)
    step = judged(logits, batch["target"], batch["valid"], weights, several)
    for one in objective.also:
        _add(step, found, batch[f"also.{one.note}"], one.output, one.weight)
    return step


def _add(step: Step, found: Any, wanted: Any, output: str, weight: float) -> None:
    """Add the error of one output to a step; it has no greatest value."""
    given = part(found, output)
    shape = None if given is None else tuple(given.shape)
    if shape != tuple(wanted.shape):
        raise TrainingError(
            f"train.objective (segmentation): also {output}",
            f"numbers of shape {tuple(wanted.shape)}, as the samples have them",
            "no such output" if shape is None else str(shape),
        )
    error = mse_loss(given.float(), wanted)
    step.loss = step.loss + weight * error
    step.bounds = (0.0, None)
    step.metrics = {**step.metrics, f"{output}_error": (error.detach() * len(wanted), len(wanted))}
