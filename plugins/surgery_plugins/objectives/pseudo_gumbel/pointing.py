"""Step 5: a mask out of the caption, through [SEG]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from surgery_plugins.objectives.pseudo_gumbel.splice import batched, spliced


@dataclass(frozen=True)
class Pointed:
    """What the model says with captions before it.

    Attributes:
        hidden: state of the token of masks, ``[batch, width]``.
        surprise: mean cross entropy of the tokens of the answer, ``[batch]``.
    """

    hidden: Tensor
    surprise: Tensor


def pointed(
    model: Any, batch: Mapping[str, Any], seen: Tensor, captions: Sequence[Tensor], before: bool
) -> Pointed:
    """Read image, caption and answer, and take the state of the token of masks.

    Args:
        model: a grounded model.
        batch: ``before``, ``after``, ``answer``, ``token`` and ``seg``.
        seen: tokens of the images, ``[batch, places, width]``.
        captions: embeddings, ``[tokens, width]`` for each sample.
        before: take the state that foretells the token, and not its own.
    """
    table, (after, answer) = model.get_input_embeddings(), (batch["after"], batch["answer"])
    texts, starts = [], []
    for ids, image, caption in zip(batch["before"], seen, captions, strict=True):
        opening = spliced(table(ids), ids, batch["token"], image, "before")
        texts.append(torch.cat([opening, caption.to(opening.dtype), table(after), table(answer)]))
        starts.append(len(ids) + len(caption) + len(after))
    hidden = model.read(*batched(texts))
    seg = int((answer == batch["seg"]).nonzero()[0]) - int(before)
    states = torch.stack([hidden[n, start + seg] for n, start in enumerate(starts)])
    spans = [hidden[n, start - 1 : start - 1 + len(answer)] for n, start in enumerate(starts)]
    logits = model.say(torch.stack(spans)).float()
    each = cross_entropy(logits.transpose(1, 2), answer.expand(len(starts), -1), reduction="none")
    return Pointed(states, each.mean(-1))
