"""Steps 2 and 4: tokens replaced at random, and the straight-through top-k Gumbel-softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.checkpoint import checkpoint

from surgery.errors import TrainingError

_AT_ONCE = 64
"""Tokens whose k embeddings are in memory at the same time."""

_WHERE = "train.objective (pseudo-gumbel)"


def replaced(caption: Tensor, share: float, allowed: Tensor) -> Tensor:
    """Replace a share of tokens by others, drawn evenly.

    Args:
        caption: ``[tokens]``, without padding.
        share: how likely each is replaced.
        allowed: what may stand there.
    """
    chosen = torch.rand(caption.shape, device=caption.device) < share
    drawn = allowed[torch.randint(len(allowed), caption.shape, device=caption.device)]
    return torch.where(chosen, drawn, caption)


@dataclass(frozen=True)
class Choice:
    """One token chosen at each place, and where its gradient goes.

    Attributes:
        hard: ``[tokens, k]``, 1 for the chosen and 0 elsewhere, with the gradient of ``soft``.
        soft: ``[tokens, k]``, the softmax of logits and noise.
        index: ``[tokens, k]``, numbers of the tokens.
        logits: ``[tokens, k]``, the greatest ones, in float32.
    """

    hard: Tensor
    soft: Tensor
    index: Tensor
    logits: Tensor

    @property
    def tokens(self) -> Tensor:
        """The chosen tokens, ``[tokens]``."""
        return self.index.gather(-1, self.hard.detach().argmax(-1, keepdim=True))[..., 0]


def chosen(logits: Tensor, k: int, tau: float, noise: bool) -> Choice:
    """Choose among the k greatest logits by Gumbel-softmax, straight through.

    ``s = softmax((v + g) / tau)`` with ``g = -log(Exp(1))`` and ``hard = onehot(argmax s) - s + s``
    (Jang et al., Maddison et al., 2017), where the first ``s`` gives no gradient. In this order the
    result is exactly one-hot in every dtype; noise and softmax are in float32, since coarser noise
    is never large.

    Args:
        logits: ``[tokens, vocabulary]``; minus infinity for what may not be chosen.
        k: how many are kept.
        tau: temperature.
        noise: False to choose the greatest.
    """
    values, index = logits.float().topk(k, -1)
    drawn = -torch.empty_like(values).exponential_().log() if noise else torch.zeros_like(values)
    soft = ((values + drawn) / tau).softmax(-1)
    best = one_hot(soft.argmax(-1), k).to(soft.dtype)
    return Choice((best - soft.detach()) + soft, soft, index, values)


def mixed(table: Callable[[Tensor], Tensor], choice: Choice) -> Tensor:
    """Give the embeddings of chosen tokens: those of the tokens, bit for bit, with a gradient.

    Args:
        table: gives embeddings of numbers of tokens.
        choice: ``[tokens, k]``.

    Returns:
        ``[tokens, width]``.

    Raises:
        TrainingError: they are not.
    """
    few = (torch.split(one, _AT_ONCE) for one in (choice.hard, choice.index))
    pairs = zip(*few, strict=True)
    parts = [checkpoint(_mixed, table, *pair, use_reentrant=False) for pair in pairs]
    found = torch.cat(parts)
    _check(choice, found, table)
    return found


def _mixed(table: Callable[[Tensor], Tensor], weights: Tensor, index: Tensor) -> Tensor:
    rows = table(index)
    return (weights.to(rows.dtype)[..., None] * rows).sum(-2).to(rows.dtype)


@torch.no_grad()
def _check(choice: Choice, found: Tensor, table: Callable[[Tensor], Tensor]) -> None:
    ones, zeros = (choice.hard == 1).sum(-1), (choice.hard == 0).sum(-1)
    if not bool(((ones == 1) & (zeros == choice.hard.shape[-1] - 1)).all()):
        worst = float((choice.hard - choice.hard.round()).abs().max())
        raise TrainingError(
            f"{_WHERE}: the choice of tokens", "exactly one 1 at each place, zeros elsewhere",
            f"values that are off by up to {worst:.2g}",
            "look for logits that are not finite, or a lower precision than float32",
        )  # fmt: skip
    if not torch.equal(found, table(choice.tokens)):
        raise TrainingError(
            f"{_WHERE}: embeddings of the caption", "those of the chosen tokens, bit for bit",
            "others", "what changes them between table and sum?",
        )  # fmt: skip
