"""Embeddings put in the places of a text, and texts of several lengths put in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from surgery.errors import TrainingError


def spliced(embeddings: Tensor, ids: Tensor, token: int, given: Tensor, name: str) -> Tensor:
    """Put embeddings in the places of one text.

    Args:
        embeddings: of the text, ``[length, width]``.
        ids: the text, ``[length]``.
        token: what stands for a place.
        given: what belongs there, ``[places, width]``, in order.
        name: how errors name the text.

    Raises:
        TrainingError: there are more or fewer places; none is cut and none repeated.
    """
    places = ids == token
    count = int(places.sum())
    if count != len(given):
        raise TrainingError(
            f"train.objective (pseudo-gumbel): text `{name}`",
            f"{len(given)} places, one for each embedding", f"{count}: {runs(ids, token)}",
            "both must count the image's places and the cells of its region the same way",
        )  # fmt: skip
    return embeddings.masked_scatter(places[:, None], given.to(embeddings.dtype))


def runs(ids: Tensor, token: int) -> str:
    """Show how long the stretches of a token in a text are."""
    flags = (ids == token).tolist()
    lengths: list[int] = []
    for before, now in zip([False, *flags], flags, strict=False):
        if now:
            lengths = [*lengths[:-1], lengths[-1] + 1] if before else [*lengths, 1]
    return "in stretches of " + ", ".join(map(str, lengths)) if lengths else "no stretch"


def batched(texts: Sequence[Tensor], left: bool = False) -> tuple[Tensor, Tensor]:
    """Pad texts of several lengths with zeros.

    Args:
        texts: each ``[length, width]``.
        left: pad before the text, as what is to be continued needs it.

    Returns:
        ``[batch, length, width]``, and a mask ``[batch, length]``, 1 where a text is.
    """
    most = max(len(text) for text in texts)
    rooms = [(most - len(text), 0) if left else (0, most - len(text)) for text in texts]
    both = zip(texts, rooms, strict=True)
    ones = torch.ones(most, dtype=torch.int64, device=texts[0].device)
    masks = [pad(ones[: len(text)], room) for text, room in zip(texts, rooms, strict=True)]
    return torch.stack([pad(text, (0, 0, *room)) for text, room in both]), torch.stack(masks)
