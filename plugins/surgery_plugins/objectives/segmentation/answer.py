"""Find the logits of masks in what a model returns."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from surgery.errors import TrainingError

NAMES = ("semantic_seg", "pred_masks", "masks_queries_logits", "logits")
"""What models call the logits of their masks, those of a whole concept first."""

_INPUTS = ("pixel_values", "input_ids", "attention_mask")


def accepted(model: nn.Module) -> frozenset[str]:
    """Give the names of what a model's forward takes; those of a batch where it takes any."""
    parameters = inspect.signature(model.forward).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return frozenset((*parameters, "pixel_values"))
    return frozenset(parameters)


def called(model: nn.Module, batch: Mapping[str, Tensor]) -> Any:
    """Call a model and give all that it returns.

    Args:
        model: called with ``pixel_values``, and with token ids where it takes them; a model
            that has no such argument gets the images alone.
        batch: what a forward gets.
    """
    takes = accepted(model)
    if "pixel_values" not in takes:
        return model(batch["pixel_values"])
    return model(**{name: batch[name] for name in _INPUTS if name in batch and name in takes})


def masks_in(found: Any, output: str | None) -> Tensor:
    """Find the logits of masks in what a model returned.

    Args:
        found: a tensor, or tensors by name.
        output: name of the logits, dotted where they lie deeper; None to find them.

    Returns:
        ``(batch, masks, rows, columns)``.

    Raises:
        TrainingError: there are no such logits.
    """
    logits = part(found, output) if output else _first(found)
    if not isinstance(logits, Tensor) or logits.ndim not in (3, 4):
        raise _missing(found, output)
    return logits.unsqueeze(1) if logits.ndim == 3 else logits


def part(found: Any, output: str) -> Any:
    """Give what a model returned under a dotted name, or None."""
    for name in output.split("."):
        found = _get(found, name)
    return found


def _first(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found
    return next((one for name in NAMES if (one := _get(found, name)) is not None), None)


def _get(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)


def _missing(found: Any, output: str | None) -> TrainingError:
    wanted = f"`{output}`" if output else f"one of {', '.join(NAMES)}"
    given = found if isinstance(found, Mapping) else getattr(found, "__dict__", {})
    shapes = [f"{n} {tuple(t.shape)}" for n, t in given.items() if isinstance(t, Tensor)]
    return TrainingError(
        "train.objective (segmentation): what the model returns",
        f"logits of masks, {wanted}, of 3 or 4 axes",
        ", ".join(shapes) or type(found).__name__,
        "name them with `output`",
    )
