"""Make the changed tokenizer: renamed, removed, added, marked. The given one stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import groupby
from typing import Any

from surgery.errors import RefusedError, did_you_mean
from surgery_plugins.surgeries.tokens.backend import edited, in_own_vocabulary, marked, renamed
from surgery_plugins.surgeries.tokens.backend import removed as taken_away
from surgery_plugins.surgeries.tokens.options import NewToken

FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")
"""The flags of ``tokenizers.AddedToken``."""


def id_of(known: Mapping[str, int], token: str, where: str) -> int:
    """Give the id of a token of a vocabulary.

    Raises:
        RefusedError: there is no such token.
    """
    if token not in known:
        raise RefusedError(where, "a token", f"'{token}', which is none", _near(token, known))
    return int(known[token])


def with_renamed(tokenizer: Any, names: Mapping[str, str]) -> Any:
    """Give a tokenizer in which tokens have other texts; ids stay.

    Raises:
        RefusedError: a token is not there, or the new text is a token already.
    """
    known = tokenizer.get_vocab() if names else {}
    for old, new in names.items():
        id_of(known, old, "tokens: rename")
        if new in known:
            raise RefusedError("tokens: rename", "a new text", f"'{new}', which is a token already")

    def change(data: dict[str, Any]) -> None:
        for old, new in names.items():
            renamed(data, old, new)

    if not names:
        return tokenizer
    copy = edited(tokenizer, change)
    for name in copy.SPECIAL_TOKENS_ATTRIBUTES:
        held = copy._special_tokens_map.get(name)
        if held is not None and str(held) in names:
            setattr(copy, name, names[str(held)])
    copy.extra_special_tokens = [names.get(t, t) for t in copy.extra_special_tokens]
    copy.chat_template = renamed_in(copy.chat_template, names)
    return copy


def renamed_in(template: Any, names: Mapping[str, str]) -> Any:
    """Give a chat template, or several by name, with the new texts in place of the old."""
    if isinstance(template, Mapping):
        return {key: renamed_in(text, names) for key, text in template.items()}
    for old, new in names.items() if template else ():
        template = template.replace(old, new)
    return template


def with_removed(tokenizer: Any, tokens: Sequence[str]) -> Any:
    """Give a tokenizer without its last tokens; no other id changes.

    Raises:
        RefusedError: a token is not there, is not among the last, or is one of the model's own.
    """
    if not tokens:
        return tokenizer
    where, known = "tokens: remove", tokenizer.get_vocab()
    numbers = {token: id_of(known, token, where) for token in tokens}
    for token, number in numbers.items():
        behind = [t for t, i in known.items() if i > number and t not in numbers]
        if behind:
            raise RefusedError(
                where, "the last tokens, so that no other id changes",
                f"'{token}' (id {number}), with {len(behind)} tokens behind it",
                f"remove '{behind[0]}' too, or rename '{token}' instead",
            )  # fmt: skip
    _unused(tokenizer, tokens, where)

    def change(data: dict[str, Any]) -> None:
        own = in_own_vocabulary(data) & set(tokens)
        if own:
            raise RefusedError(
                where, "tokens that were added", f"'{min(own)}', which is the model's own"
            )
        taken_away(data, frozenset(tokens))

    return edited(tokenizer, change)


def with_added(tokenizer: Any, tokens: Sequence[NewToken]) -> tuple[Any, dict[str, int]]:
    """Give a tokenizer with more tokens, and their ids.

    Raises:
        RefusedError: a token is there already, gets an id that another has, or not its flags.
    """
    if not tokens:
        return tokenizer, {}
    known = tokenizer.get_vocab()
    for new in tokens:
        if new.content in known:
            raise RefusedError(
                "tokens: add",
                "a token that is not there",
                f"'{new.content}', which has the id {known[new.content]}",
                "leave it out; list it under `special:` to mark it",
            )
    copy = deepcopy(tokenizer)
    for special, group in groupby(tokens, lambda new: new.special):
        copy.add_tokens([_added(new) for new in group], special_tokens=special)
    return copy, _checked_ids(copy, tokens, known)


def with_marked(tokenizer: Any, tokens: Iterable[str]) -> Any:
    """Give a tokenizer in which tokens are special.

    Raises:
        RefusedError: a token is not there.
    """
    known = tokenizer.get_vocab()
    numbers = {token: id_of(known, token, "tokens: special") for token in tokens}

    def change(data: dict[str, Any]) -> None:
        for token, number in numbers.items():
            marked(data, token, number)

    return edited(tokenizer, change) if numbers else tokenizer


def _added(new: NewToken) -> Any:
    from tokenizers import AddedToken

    return AddedToken(new.content, **{name: getattr(new, name) for name in FLAGS})


def _checked_ids(
    copy: Any, tokens: Sequence[NewToken], before: Mapping[str, int]
) -> dict[str, int]:
    """Give the new tokens' ids, once each is its own and each token has its flags."""
    known, made = copy.get_vocab(), copy.added_tokens_decoder
    taken = {number: text for text, number in before.items()}
    for new in tokens:
        where, number = f"tokens: add '{new.content}'", known.get(new.content)
        if number is None or number in taken:
            found = "none" if number is None else f"{number}, the id of '{taken[number]}'"
            raise RefusedError(
                where, "an id of its own", found, "the vocabulary has holes; mend it"
            )
        taken[number] = new.content
        wrong = [name for name in FLAGS if getattr(made[number], name) != getattr(new, name)]
        if wrong:
            found = f"another value of {', '.join(wrong)}"
            raise RefusedError(where, "the flags that were asked for", found)
    return {new.content: int(known[new.content]) for new in tokens}


def _unused(tokenizer: Any, tokens: Sequence[str], where: str) -> None:
    named = {str(v): k for k, v in tokenizer._special_tokens_map.items() if v is not None}
    used = [token for token in tokens if token in named]
    if used:
        raise RefusedError(
            where, "tokens that nothing refers to", f"'{used[0]}', the {named[used[0]]}",
            "assign another first",
        )  # fmt: skip
    template = str(tokenizer.chat_template or "")
    used = [token for token in tokens if token in template]
    if used:
        raise RefusedError(
            where, "tokens that nothing refers to", f"'{used[0]}', part of the chat template"
        )


def _near(token: str, known: Mapping[str, int]) -> str:
    return did_you_mean(token, known) if len(known) < 50_000 else ""
