"""Features of an encoder: one vector for each text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from surgery.errors import RefusedError

if TYPE_CHECKING:
    from torch import Tensor, nn

Pool: TypeAlias = Literal["mean", "first", "last"]
"""Which tokens' states make the vector: all, weighed alike; the first one's; the last one's."""


def features(model: nn.Module, inputs: Mapping[str, Tensor], pool: Pool) -> Tensor:
    """Run an encoder and pool the states of its last layer.

    Args:
        model: a model of transformers; of one with a head, the part below it is run.
        inputs: with ``attention_mask``, texts x tokens, 1 where a token counts.
        pool: which tokens count.

    Returns:
        Texts x width.

    Raises:
        RefusedError: the model gives no states.
    """
    body: Any = getattr(model, "base_model", model)
    states = getattr(body(**inputs), "last_hidden_state", None)
    if states is None:
        raise RefusedError(
            "train.objective", "a model that gives last_hidden_state", type(body).__name__
        )
    return pooled(states, inputs["attention_mask"], pool)


def pooled(states: Tensor, mask: Tensor, pool: Pool) -> Tensor:
    """Pool the states of tokens; padding never counts, on whichever side it is.

    Mean pooling is that of Sentence-BERT (Reimers and Gurevych 2019, section 3).

    Args:
        states: texts x tokens x width.
        mask: texts x tokens, 1 where a token counts.
        pool: which tokens count.

    Returns:
        Texts x width, in the dtype of the states.
    """
    import torch

    if pool == "mean":
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1).clamp_min(1.0)
    places = mask.cumsum(1)
    wanted = 1 if pool == "first" else places[:, -1:]
    column = ((places == wanted) & (mask > 0)).int().argmax(1)
    return states[torch.arange(len(states), device=states.device), column]
