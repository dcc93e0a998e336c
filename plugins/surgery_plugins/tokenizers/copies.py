"""All tokenizers of one patient must agree: a saved and reloaded copy, and any other there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from surgery_plugins.tokenizers.contexts import CONTEXTS
from surgery_plugins.tokenizers.findings import Finding, found


def reloaded(tokenizer: Any) -> Any:
    """Give what comes back when a tokenizer is saved and read again."""
    from surgery_plugins.sources.transformers import library, quietly

    transformers = library("doctor tokenizer")
    with TemporaryDirectory() as folder, quietly("a saved copy", "a tokenizer that can be read"):
        tokenizer.save_pretrained(folder)
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def differences(tokenizer: Any, other: Any, name: str, tokens: Iterable[str]) -> Iterator[Finding]:
    """Compare another tokenizer with the patient's: ids, flags, and texts with the tokens.

    Args:
        tokenizer: the patient's.
        other: the other one.
        name: how findings name it.
        tokens: the tokens to look for in texts.
    """
    ours, theirs = tokenizer.get_vocab(), other.get_vocab()
    wrong = [t for t in ours if theirs.get(t) != ours[t]] + [t for t in theirs if t not in ours]
    for token in wrong:
        pair = f"{ours.get(token, 'no id')} here and {theirs.get(token, 'no id')}"
        yield found(f"'{token}' has {pair} in {name}", token)
    flags, others = tokenizer.added_tokens_decoder, other.added_tokens_decoder
    for number, token in flags.items():
        if number in others and repr(others[number]) != repr(token):
            yield found(f"'{token}' has other flags in {name}", str(token))
    for key in tokenizer.SPECIAL_TOKENS_ATTRIBUTES:
        mine, its = getattr(tokenizer, key, None), getattr(other, key, None)
        if mine != its:
            yield found(f"{key} is {mine!r} here and {its!r} in {name}", *filter(None, (mine, its)))
    if not wrong:
        yield from _texts(tokenizer, other, name, tokens)


def other_tokenizer(folder: Path) -> Any:
    """Give the tokenizer of a folder, or None."""
    from surgery_plugins.sources.transformers import tokenizer_of

    return tokenizer_of(folder, str(folder))


def _texts(tokenizer: Any, other: Any, name: str, tokens: Iterable[str]) -> Iterator[Finding]:
    for token in tokens:
        for context in CONTEXTS.values():
            text = context.replace("{}", token)
            if tokenizer.encode(text) != other.encode(text):
                yield found(f"'{text}' has other ids in {name}", token)
                break
