"""One token must be one id, wherever it stands in a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from surgery_plugins.tokenizers.findings import Finding, found, noted

CONTEXTS = {
    "at the start": "{} is here",
    "after a space": "it is {} here",
    "glued to a word": "is{}",
    "before punctuation": "it is {}.",
    "doubled": "{}{}",
}
"""Texts in which a token is looked for; ``{}`` stands for it."""


def context_findings(tokenizer: Any, tokens: Iterable[str], copy: str = "") -> Iterator[Finding]:
    """Look for tokens in every context.

    Args:
        tokenizer: the tokenizer, or a copy of it.
        tokens: the tokens' texts.
        copy: how findings name the copy.
    """
    ids, flags = tokenizer.get_vocab(), tokenizer.added_tokens_decoder
    for token in tokens:
        if token not in ids:
            yield found(f"'{token}' is no token{copy}", token)
            continue
        alone = getattr(flags.get(ids[token]), "single_word", False)
        for where, context in CONTEXTS.items():
            if not (alone and where in ("glued to a word", "doubled")):
                yield from _in_context(tokenizer, token, ids[token], (where, context), copy)


def wrong_literals(tokenizer: Any, texts: Iterable[str]) -> Iterator[Finding]:
    """Note every text that is not one id."""
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1:
            yield noted(f"'{text}' is {len(ids)} ids", text)


def _in_context(
    tokenizer: Any, token: str, number: int, context: tuple[str, str], copy: str
) -> Iterator[Finding]:
    where, text = context
    ids = tokenizer.encode(text.replace("{}", token), add_special_tokens=False)
    count, wanted = ids.count(number), text.count("{}")
    if count != wanted and count != wanted + _around(tokenizer, number, context[1]):
        text = "not found" if not count else f"found {count} times and not {wanted}"
        plain = number not in tokenizer.added_tokens_decoder
        why = " (it is no added token: mark it as special)" if plain else ""
        yield found(f"'{token}' {where} is {text}{copy}{why}", token)
    elif token not in tokenizer.decode([number], skip_special_tokens=False):
        yield found(f"'{token}' decodes as '{tokenizer.decode([number])}'{copy}", token)


def _around(tokenizer: Any, number: int, context: str) -> int:
    """Count an id in a context alone, where it stands for words that the tokenizer lacks."""
    ids: list[int] = tokenizer.encode(context.replace("{}", ""), add_special_tokens=False)
    return ids.count(number)
