"""Ids must have rows, be stated alike everywhere, and mean one thing each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from surgery_plugins.tokenizers.findings import Finding, found, noted
from surgery_plugins.tokenizers.tables import Table, configs_of, heights, stated_sizes

if TYPE_CHECKING:
    from surgery.operate.patient import Patient

NONE = -1
"""What configurations write for a token that there is none of."""


def row_findings(patient: Patient, tables: list[Table]) -> Iterator[Finding]:
    """Find tokens without a row, and stated sizes that are not the tables'."""
    rows = min(table.rows for table in tables)
    if heights(tables):
        yield found(f"the tables differ in height: {heights(tables)}")
    for token, number in patient.tokenizer.get_vocab().items():
        if number >= rows:
            yield found(f"'{token}' has the id {number}, the tables {rows} rows", token)
    sizes = list(stated_sizes(patient))
    if sizes and rows not in (size for _, size in sizes):
        shown = ", ".join(f"{key} {size}" for key, size in sizes)
        yield found(f"the tables have {rows} rows, the configuration says {shown}")


def tie_findings(patient: Patient, tables: list[Table]) -> Iterator[Finding]:
    """Find a tie that the configuration states and the model has not, or the other way round."""
    getter = getattr(patient.config, "get_text_config", None)
    stated = getattr(getter() if getter else patient.config, "tie_word_embeddings", None)
    outputs = [table for table in tables if table.kind == "output"]
    head = getattr(patient.model, "get_output_embeddings", lambda: None)()
    if stated is None or head is None:
        return
    if bool(stated) != (not outputs):
        has = "a head of its own" if outputs else "a tied head"
        yield found(f"the configuration says tie_word_embeddings: {stated}, the model has {has}")


def hole_findings(tokenizer: Any) -> Iterator[Finding]:
    """Find ids of no token, behind which a reload gives other ids, and ids of two."""
    tokens: dict[int, str] = {}
    for token, number in tokenizer.get_vocab().items():
        if number in tokens:
            text = f"'{token}' and '{tokens[number]}' have the same id {number}"
            yield found(text, token, tokens[number])
        tokens[number] = token
    missing = sorted(set(range(max(tokens) + 1)) - set(tokens))
    if missing:
        text = f"{len(missing)} ids below {max(tokens)} belong to no token, {missing[0]} first"
        yield noted(text)


def agreement_findings(patient: Patient) -> Iterator[Finding]:
    """Find ids of named tokens that are not the tokenizer's.

    Of a model that writes no text only the padding counts: nothing ends by an id there, and
    configurations as old as CLIP's state others.
    """
    tokenizer, ids = patient.tokenizer, patient.tokenizer.get_vocab()
    writes = _writes(patient)
    for name in tokenizer.SPECIAL_TOKENS_ATTRIBUTES:
        token = getattr(tokenizer, name, None)
        number = ids.get(token)
        for place, value in stated_ids(patient, f"{name}_id", f"{name}_index"):
            held = list(value) if isinstance(value, list | tuple) else [value]
            if number is not None and number not in held:
                text = f"{place} is {value}, the tokenizer's {name} {number}"
                yield Finding(text, frozenset([str(token)]), writes or name == "pad_token")
    yield from _of_processor(patient)


def meaning_findings(patient: Patient) -> Iterator[Finding]:
    """Find tokens that mean two things, and ids that no token has."""
    tokenizer, ids = patient.tokenizer, patient.tokenizer.get_vocab()
    pad, eos = tokenizer.pad_token, tokenizer.eos_token
    if pad is not None and pad == eos:
        yield noted(f"pad and eos are both '{pad}': label masking by pad hides the real end", pad)
    named = tokenizer._special_tokens_map.items()
    others = {str(t) for k, t in named if t is not None and k != "pad_token"}
    for place, value in stated_ids(patient, "image_token_id", "image_token_index"):
        if pad is not None and value == ids.get(pad):
            yield found(f"{place} is the pad token's id {value}", pad)
        if isinstance(value, int) and value >= len(ids):
            yield found(f"{place} is {value}, which no token has")
    if pad is not None and pad != eos and pad in others:
        yield noted(f"pad is '{pad}', which has another meaning too", pad)


def flag_findings(tokenizer: Any) -> Iterator[Finding]:
    """Find flags of added tokens that are known to mislead."""
    if getattr(tokenizer, "split_special_tokens", False):
        yield found("split_special_tokens is set: special tokens are split")
    for number, token in tokenizer.added_tokens_decoder.items():
        if token.normalized and tokenizer.is_fast and _normalizes(tokenizer, token.content):
            text = f"'{token.content}' ({number}) is normalized: other texts match it, or none does"
            yield noted(text, token.content)
        if token.single_word:
            yield noted(f"'{token.content}' is a single_word: not found in a word", token.content)
        swallowed = [side for side in ("lstrip", "rstrip") if getattr(token, side)]
        if swallowed:
            words = " and ".join(swallowed)
            yield noted(f"'{token.content}' swallows white space ({words})", token.content)


def side_findings(patient: Patient) -> Iterator[Finding]:
    """Note padding on the side on which batched generation must not have it."""
    encodes = getattr(patient.config, "is_encoder_decoder", False)
    if _writes(patient) and not encodes and patient.tokenizer.padding_side == "right":
        yield noted("padding is on the right: batched generation needs padding_side='left'")


def _writes(patient: Patient) -> bool:
    """Tell whether a model generates text."""
    return bool(getattr(patient.model, "can_generate", lambda: False)())


def stated_ids(patient: Patient, *keys: str) -> Iterator[tuple[str, Any]]:
    """Give the ids that configuration and generation config state: dotted key and value."""
    places = [(f"config.{p}", c) for p, c in configs_of(patient.config) if _has_text(p, c)]
    places.append(("generation_config.", getattr(patient.model, "generation_config", None)))
    for prefix, config in places:
        for key in keys:
            value = vars(config).get(key) if config is not None else None
            if value is not None and value != NONE:
                yield prefix + key, value


def _has_text(prefix: str, config: Any) -> bool:
    return not prefix or hasattr(config, "vocab_size")


def _of_processor(patient: Patient) -> Iterator[Finding]:
    processor, ids = patient.processor, patient.tokenizer.get_vocab()
    for key, token in vars(processor).items() if processor is not None else ():
        if not (key.endswith("_token") and isinstance(token, str)):
            continue
        number = ids.get(token)
        if number is None:
            yield found(f"processor.{key} is '{token}', which is no token", token)
        places = list(stated_ids(patient, f"{key}_id", f"{key}_index"))
        places.append((f"processor.{key}_id", vars(processor).get(f"{key}_id", number)))
        for place, value in places:
            if number is not None and value != number:
                yield found(f"{place} is {value}, processor.{key} '{token}' is {number}", token)


def _normalizes(tokenizer: Any, text: str) -> bool:
    """Tell whether the tokenizer's normalizer changes a text."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer is not None and normalizer.normalize_str(text) != text
