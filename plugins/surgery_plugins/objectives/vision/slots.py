"""Places of images in texts: as many as the connector gives tokens, counted for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.operate.patient import Patient

_COUNTS = ("image_seq_length", "image_seq_len")
"""What configurations and processors call the number of places of an image."""


@dataclass(frozen=True)
class Slots:
    """The places that one image takes.

    Attributes:
        token: number of the token that stands for a place.
        text: its text.
        count: how many places an image takes.
        where: what says so.
    """

    token: int
    text: str
    count: int
    where: str


def slots_of(patient: Patient, config: Any = None) -> Slots:
    """Read the places of an image off configuration, processor and tokenizer.

    Args:
        patient: its tokenizer and processor are read.
        config: of the vision-language model; by default the patient's own.

    Raises:
        ValueError: one of them does not say it, or they disagree.
    """
    config = patient.config if config is None else config
    token = getattr(config, "image_token_id", None)
    if token is None:
        raise ValueError("its configuration names no image token (image_token_id)")
    count, where = _count(patient, config)
    return Slots(int(token), _text(patient.tokenizer, int(token)), count, where)


def _count(patient: Patient, config: Any) -> tuple[int, str]:
    holders = (("config", config), ("processor", patient.processor))
    for name in _COUNTS:
        for place, holder in holders:
            if isinstance(found := getattr(holder, name, None), int):
                return found, f"{place}.{name}"
    raise ValueError(
        "neither its configuration nor its processor says how many places an image takes "
        f"({' or '.join(_COUNTS)})"
    )


def _text(tokenizer: Any, token: int) -> str:
    """Give the text of the image token, once it is that token alone."""
    text = tokenizer.convert_ids_to_tokens(token) if token < len(tokenizer) else None
    found = ids_of(tokenizer, text) if text else []
    if found != [token]:
        told = f"reads {text!r} as {len(found)} other tokens" if text else "has no such token"
        raise ValueError(
            f"its configuration says that token {token} is the image's, and its tokenizer {told}; "
            "is it the tokenizer that the model was made with? Add the token with "
            "`use: tokens` and name it with `assign: {image_token: ...}`"
        )
    return str(text)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Give the tokens of a piece of text, without what opens or ends texts."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def expanded(ids: Sequence[int], slots: Slots, images: int = 1) -> tuple[list[int], list[int]]:
    """Give each image token of a text as many places as an image takes.

    Args:
        ids: the text, with one image token for each image, or with all places already.
        slots: the places of an image.
        images: how many images the sample has.

    Returns:
        The tokens, and for each the number of the token of ``ids`` that it comes from.

    Raises:
        ValueError: the text has another number of image tokens.
    """
    found = sum(one == slots.token for one in ids)
    if found not in (images, images * slots.count):
        raise ValueError(
            f"expected {slots.text} once for {images} image, or {images * slots.count} places as "
            f"{slots.where} says, got {found}{_hint(found, slots)}"
        )
    times = slots.count if found == images else 1
    origin = [n for n, one in enumerate(ids) for _ in range(times if one == slots.token else 1)]
    return [ids[n] for n in origin], origin


def _hint(found: int, slots: Slots) -> str:
    if found == 0:
        return f"; write {slots.text} where the image stands in the text"
    return (
        f"; was the text prepared for a connector that gives {found} tokens? Write {slots.text} "
        "once, and its places are counted"
    )
