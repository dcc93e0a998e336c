"""Change what a fast tokenizer knows, through its own JSON: rename, mark and remove tokens.

The ``tokenizers`` library adds tokens and has no way to rename, mark or remove one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from surgery.errors import RefusedError

Data = dict[str, Any]
"""A tokenizer as ``tokenizer.json`` writes it."""


def edited(tokenizer: Any, change: Callable[[Data], None]) -> Any:
    """Give a copy of a fast tokenizer whose JSON was changed; the given one stays as it is.

    Raises:
        RefusedError: the tokenizer is not one of the ``tokenizers`` library.
    """
    from tokenizers import Tokenizer

    if not getattr(tokenizer, "is_fast", False):
        raise RefusedError(
            "tokens", "a fast tokenizer (tokenizer.json)", type(tokenizer).__name__,
            "convert it; a slow tokenizer can only be given more tokens",
        )  # fmt: skip
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    change(data)
    copy = deepcopy(tokenizer)
    copy._tokenizer = Tokenizer.from_str(json.dumps(data))
    return copy


def renamed(data: Data, old: str, new: str) -> None:
    """Give a token another text, wherever the tokenizer mentions it; its id stays.

    Raises:
        RefusedError: merges are made of the token's text.
    """
    model = data["model"]
    _no_merges(model, old)
    for token in data["added_tokens"]:
        if token["content"] == old:
            token["content"] = new
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {new if text == old else text: i for text, i in vocabulary.items()}
    else:
        model["vocab"] = [[new if text == old else text, score] for text, score in vocabulary]
    if model.get("unk_token") == old:
        model["unk_token"] = new
    data["post_processor"] = _replaced(data["post_processor"], old, new)
    if data.get("padding") and data["padding"]["pad_token"] == old:
        data["padding"]["pad_token"] = new


def marked(data: Data, token: str, number: int) -> None:
    """Make a token a special one: found before all else, in the text as it stands."""
    flags = {"special": True, "normalized": False}
    for known in data["added_tokens"]:
        if known["content"] == token:
            known.update(flags)
            return
    plain = {"single_word": False, "lstrip": False, "rstrip": False}
    data["added_tokens"].append({"id": number, "content": token, **plain, **flags})
    data["added_tokens"].sort(key=lambda known: known["id"])


def removed(data: Data, tokens: frozenset[str]) -> None:
    """Take added tokens away."""
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in tokens]


def in_own_vocabulary(data: Data) -> frozenset[str]:
    """Give the tokens of the model itself, added ones left out."""
    vocabulary = data["model"]["vocab"]
    return frozenset(vocabulary if isinstance(vocabulary, dict) else (t for t, _ in vocabulary))


def _no_merges(model: Data, token: str) -> None:
    for merge in model.get("merges") or ():
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if token in (left, right, left + right):
            raise RefusedError(
                "tokens: rename", "a token that no merge makes or uses", f"'{token}'",
                "add a token instead",
            )  # fmt: skip


def _replaced(value: Any, old: str, new: str) -> Any:
    """Replace a token in a post-processor; the names of its sequences are no tokens."""
    if isinstance(value, dict):
        return {
            new if key == old else key: inner if key == "Sequence" else _replaced(inner, old, new)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_replaced(inner, old, new) for inner in value]
    return new if value == old else value
