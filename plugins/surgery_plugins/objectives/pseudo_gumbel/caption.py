"""Step 1: what the teacher says of a region, greedily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surgery.errors import TrainingError
from surgery_plugins.objectives.pseudo_gumbel.splice import batched, spliced


def asked(model: Any, batch: Mapping[str, Any], seen: Tensor) -> list[Tensor]:
    """Give the embeddings of the questions, image and region in their places.

    Args:
        model: a grounded model.
        batch: ``ask``, ``cells`` and ``token``.
        seen: tokens of the images, ``[batch, places, width]``.
    """
    table, token = model.get_input_embeddings(), batch["token"]
    return [
        spliced(table(ids), ids, token, _with_region(image, cells), "ask")
        for ids, image, cells in zip(batch["ask"], seen, batch["cells"], strict=True)
    ]


def _with_region(image: Tensor, cells: Tensor) -> Tensor:
    """Give the tokens of an image, and behind them those of its region, of which there may be none.

    Args:
        image: ``[places, width]``.
        cells: ``[places]``, or ``[0]`` where no region is asked about.
    """
    return torch.cat([image, image[cells]]) if len(cells) else image


def captions(model: Any, batch: Mapping[str, Any], most: int) -> list[Tensor]:
    """Let a model describe regions; greedy, without gradients, without tokens of other meaning.

    Args:
        model: a grounded model, in eval mode.
        batch: questions, images and regions.
        most: tokens of a caption, at most.

    Returns:
        For each sample the tokens up to the end of its text, one at least.

    Raises:
        TrainingError: a caption is empty, or has a token that it may not have.
    """
    prompts, mask = batched(asked(model, batch, model.see(batch["pixel_values"])), left=True)
    rows = model.get_input_embeddings().weight.shape[0]
    found = model.vlm.generate(
        inputs_embeds=prompts,
        attention_mask=mask,
        generation_config=_greedily(batch, rows, most),
    )
    return [_ended(one, batch) for one in found]


def _greedily(batch: Mapping[str, Any], rows: int, most: int) -> Any:
    from transformers import GenerationConfig

    barred = torch.ones(rows, dtype=torch.bool)
    barred[batch["allowed"].cpu()] = False
    end = batch["end"]
    if end is not None:
        barred[end] = False
    return GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=most, min_new_tokens=1,
        suppress_tokens=barred.nonzero().flatten().tolist() or None,
        eos_token_id=end, pad_token_id=end if end is not None else 0, bos_token_id=end,
    )  # fmt: skip


def _ended(tokens: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Cut what stands behind the end of a text, and check the rest."""
    ends = (tokens == batch["end"]).nonzero() if batch["end"] is not None else tokens[:0]
    caption = tokens[: int(ends[0])] if len(ends) else tokens
    strange = caption[~torch.isin(caption, batch["allowed"])]
    if not len(caption) or len(strange):
        found = f"the tokens {strange.tolist()[:5]}" if len(caption) else "no token"
        raise TrainingError(
            "train.objective (pseudo-gumbel): the teacher's caption",
            "one token at least, none of them special", found,
            "does the model's generation ignore what is suppressed?",
        )  # fmt: skip
    return caption


def said(model: Any, batch: Mapping[str, Any], seen: Tensor, heard: Sequence[Tensor]) -> Tensor:
    """Give the student's logits for each token of captions, ``[all tokens, vocabulary]``.

    Being causal, the logits of a token come from the place before it, and see those before it.

    Args:
        model: a grounded model.
        batch: questions and regions.
        seen: tokens of the images.
        heard: the captions as the student reads them.
    """
    table: nn.Module = model.get_input_embeddings()
    questions = asked(model, batch, seen)
    both = zip(questions, heard, strict=True)
    texts, mask = batched([torch.cat([ask, table(ids)]) for ask, ids in both])
    hidden = model.read(texts, mask)
    rows = [
        hidden[n, len(ask) - 1 : len(ask) - 1 + len(ids)]
        for n, (ask, ids) in enumerate(zip(questions, heard, strict=True))
    ]
    logits: Tensor = model.say(torch.cat(rows))
    return logits
