"""Token counts, token numbers and batches of tokens, checked before any forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.operate.patient import Patient

IGNORED = -100
"""Label of a token that is not learned; torch's cross entropy leaves it out."""

TooLong: TypeAlias = Literal["refuse", "cut"]
"""What happens to a sample with too many tokens: it fails, or loses its end."""

_NO_LIMIT = 1 << 30
"""Tokenizers say a greater number than this where they know no limit."""


def text_in(sample: Mapping[str, Any], key: str) -> str:
    """Give a text of a sample.

    Raises:
        ValueError: there is none under the key, or it is blank.
    """
    if key not in sample:
        raise ValueError(f"expected the key {key!r}, got {', '.join(map(repr, sample))}")
    text = sample[key]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"expected a text under {key!r}, got {_shown(text)}")
    return text


def limit_of(patient: Patient, most: int | None) -> int | None:
    """Give how many tokens a sample may have, as the recipe, the tokenizer and the config say.

    Args:
        patient: tokenizer and config.
        most: what the recipe says, or None.
    """
    config = _text_config(patient)
    known = [
        most,
        getattr(patient.tokenizer, "model_max_length", None),
        getattr(config, "max_position_embeddings", None),
    ]
    limits = [int(one) for one in known if one is not None and 0 < one < _NO_LIMIT]
    return min(limits) if limits else None


def checked(ids: Sequence[int], patient: Patient, limit: int | None) -> None:
    """Check the number of tokens of a sample, and that the model has a row for each.

    Raises:
        ValueError: there are none, too many, or one without a row.
    """
    if not len(ids):
        raise ValueError("expected one token at least, got none")
    if limit is not None and len(ids) > limit:
        raise ValueError(
            f"expected at most {limit} tokens, got {len(ids)}; "
            "shorten the sample, raise `max_tokens`, or write `too_long: cut`"
        )
    rows = getattr(_text_config(patient), "vocab_size", None)
    if rows is not None and max(ids) >= rows:
        raise ValueError(
            f"expected token numbers below {rows}, the rows of the model's vocabulary, "
            f"got {max(ids)}; does the tokenizer belong to the model?"
        )


def encoded(
    texts: tuple[str] | tuple[str, str], patient: Patient, most: int | None, too_long: TooLong
) -> dict[str, Tensor]:
    """Turn a text, or two that belong together, into what an encoder gets.

    Args:
        texts: one or two texts.
        patient: tokenizer and config.
        most: tokens, at most, special ones included.
        too_long: what happens to a longer text.

    Returns:
        For each input that the tokenizer makes, one number for each token.

    Raises:
        ValueError: the tokens do not fit the model.
    """
    import torch

    limit = limit_of(patient, most)
    cut = {"truncation": True, "max_length": limit} if too_long == "cut" and limit else {}
    made = patient.tokenizer(*texts, verbose=False, **cut)
    checked(made["input_ids"], patient, limit)
    return {name: torch.tensor(values) for name, values in made.items()}


def padded(rows: Sequence[Mapping[str, Tensor]], patient: Patient) -> dict[str, Tensor]:
    """Pad rows of tokens at their ends to the longest.

    Args:
        rows: for each input, one number for each token.
        patient: its tokenizer says with which token.

    Returns:
        For each input, rows x tokens.
    """
    from torch.nn.utils.rnn import pad_sequence

    fill = {"input_ids": pad_of(patient), "labels": IGNORED}
    return {
        name: pad_sequence(
            [row[name] for row in rows], batch_first=True, padding_value=fill.get(name, 0)
        )
        for name in rows[0]
    }


def pad_of(patient: Patient) -> int:
    """Give the number of a token to pad with; masks, never this number, say what is padding."""
    tokenizer = patient.tokenizer
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return int(next(one for one in known if one is not None))


def _text_config(patient: Patient) -> Any:
    config = patient.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _shown(value: object) -> str:
    return "a blank one" if isinstance(value, str) else type(value).__name__
