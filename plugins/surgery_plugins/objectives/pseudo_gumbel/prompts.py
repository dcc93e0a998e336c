"""The texts of a sample as tokens, each count checked before anything is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surgery_plugins.objectives.tokens import checked, limit_of
from surgery_plugins.objectives.vision.slots import Slots, ids_of

if TYPE_CHECKING:
    from surgery.operate.patient import Patient

IMAGE, REGION, CAPTION = "{image}", "{region}", "{caption}"
"""What stands in templates for the places of an image, those of its region, and the caption."""


@dataclass(frozen=True)
class Texts:
    """Templates of one training.

    Attributes:
        ask: what the caption answers, with the image and its region.
        before: what stands before the caption when the mask is asked for, with the image.
        after: what stands behind it.
        answer: what the model says then, with the token of the mask once.
        seg: the token of the mask.
    """

    ask: str
    before: str
    after: str
    answer: str
    seg: str


def prompts_of(texts: Texts, patient: Patient, slots: Slots, region: int) -> dict[str, Tensor]:
    """Turn templates into tokens for one sample, and count image places and mask tokens.

    Args:
        texts: the templates.
        patient: its one tokenizer reads them.
        slots: places of an image.
        region: how many cells the region has.

    Returns:
        ``ask``, ``before``, ``after`` and ``answer``, each ``[length]``.

    Raises:
        ValueError: a count is wrong; the message says why.
    """
    tokenizer = patient.tokenizer
    places = {IMAGE: slots.count, REGION: region}
    made = {
        "ask": tokenizer(_filled(texts.ask, slots, places), verbose=False)["input_ids"],
        "before": tokenizer(_filled(texts.before, slots, places), verbose=False)["input_ids"],
        "after": ids_of(tokenizer, texts.after),
        "answer": ids_of(tokenizer, texts.answer),
    }
    for name in ("ask", "before"):
        made[name] = _unended(list(made[name]), tokenizer)
    _check_places(made, slots, slots.count + region * texts.ask.count(REGION))
    _check_masks(made, seg_of(tokenizer, texts.seg), texts.seg)
    if tokenizer.eos_token_id is not None:
        made["answer"] = [*made["answer"], tokenizer.eos_token_id]
    for one in made.values():
        if one:
            checked(one, patient, limit_of(patient, None))
    return {name: torch.tensor(one, dtype=torch.int64) for name, one in made.items()}


def _filled(template: str, slots: Slots, places: Mapping[str, int]) -> str:
    for name, count in places.items():
        template = template.replace(name, slots.text * count)
    return template


def _unended(ids: list[int], tokenizer: Any) -> list[int]:
    """Take away an end of text that the tokenizer writes behind every text."""
    ended = ids[-1:] == [tokenizer.eos_token_id] != [tokenizer.bos_token_id]
    return ids[:-1] if ended else ids


def _check_places(made: Mapping[str, list[int]], slots: Slots, asked: int) -> None:
    wanted = {"ask": asked, "before": slots.count, "after": 0, "answer": 0}
    for name, count in wanted.items():
        found = made[name].count(slots.token)
        if found != count:
            raise ValueError(
                f"expected {count} places for embeddings in the text `{name}`, as {slots.where} "
                f"and the cells of the region say, got {found}"
            )


def _check_masks(made: Mapping[str, list[int]], number: int, seg: str) -> None:
    """Count the tokens of masks: one, and where it is read."""
    found = {name: ids.count(number) for name, ids in made.items()}
    if found["answer"] != 1 or sum(found.values()) != 1:
        told = ", ".join(f"{count} in `{name}`" for name, count in found.items() if count)
        raise ValueError(f"expected {seg} once, in `answer`, got {told or 'none in any text'}")


def seg_of(tokenizer: Any, seg: str) -> int:
    """Give the number of the token of masks, which must be one token wherever it stands.

    Raises:
        ValueError: this tokenizer does not know it as a token.
    """
    number = tokenizer.get_vocab().get(seg, -1)
    for text in (seg, f"is {seg}.", f"is{seg}{seg}"):
        pieces = ids_of(tokenizer, text)
        if number < 0 or pieces.count(number) != text.count(seg):
            raise ValueError(
                f"its tokenizer reads {text!r} as {len(pieces)} tokens, and {seg} is none of them: "
                f"{seg} was never added to this tokenizer, or to another copy of it. Add it with "
                f"`use: tokens, with: {{add: ['{seg}']}}`, which changes tokenizer and tables "
                "together; a patient has one tokenizer, and the training gets that one"
            )
    return int(number)


@lru_cache(maxsize=4)
def allowed_of(tokenizer: Any, rows: int) -> Tensor:
    """Give the tokens that captions are made of: those of the vocabulary, without added ones.

    Added and special tokens stand for images, masks and ends; numbers that no token has were
    never trained.

    Args:
        tokenizer: the patient's.
        rows: of the table of tokens.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    known = sorted({*tokenizer.get_vocab().values()} - special)
    return torch.tensor([one for one in known if one < rows])
