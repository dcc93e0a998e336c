"""Chats as tokens, and which of them the assistant said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

Learn: TypeAlias = Literal["replies", "last", "all"]
"""What of a chat is learned: all that the assistant says, its last reply, or every token."""

Messages: TypeAlias = "Sequence[Mapping[str, Any]]"

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def messages_in(sample: Mapping[str, Any], key: str) -> Messages:
    """Give the messages of a sample.

    Raises:
        ValueError: there are none, or one has no role or content.
    """
    found = sample.get(key)
    if not isinstance(found, list) or not found:
        raise ValueError(f"expected a list of messages under {key!r}, got {type(found).__name__}")
    for number, one in enumerate(found):
        if not isinstance(one, Mapping) or "role" not in one:
            raise ValueError(f"expected a mapping with a role as message {number}, got {one!r}")
    if not any(one["role"] == "assistant" for one in found):
        roles = ", ".join(str(one["role"]) for one in found)
        raise ValueError(f"expected a message of the role assistant, got {roles}")
    return found


def chat_tokens(
    tokenizer: Any, messages: Messages, learn: Learn, **given: Any
) -> tuple[list[int], list[bool]]:
    """Turn a chat into tokens, by the tokenizer's own template.

    Where the template marks what the assistant says (``generation``), its marks decide. Elsewhere
    a reply is what the template adds to the chat before it, the opening of the reply aside.

    Args:
        tokenizer: with a chat template.
        messages: the chat.
        learn: which tokens are learned.
        given: more for the template, such as ``tools``.

    Returns:
        The tokens, and for each whether it is learned.

    Raises:
        ValueError: the template does not tell what the assistant says.
    """
    if learn == "replies" and _MARKED.search(_template(tokenizer)):
        return _marked(tokenizer, messages, given)
    text = _rendered(tokenizer, messages, given)
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = [(0, len(text))] if learn == "all" else _replies(tokenizer, messages, learn, given)
    inside = [any(a <= i and j <= b for a, b in spans) for i, j in made["offset_mapping"]]
    return list(made["input_ids"]), inside


def _marked(
    tokenizer: Any, messages: Messages, given: Mapping[str, Any]
) -> tuple[list[int], list[bool]]:
    made = tokenizer.apply_chat_template(
        list(messages), return_dict=True, return_assistant_tokens_mask=True, **given
    )
    return list(made["input_ids"]), [bool(one) for one in made["assistant_masks"]]


def _replies(
    tokenizer: Any, messages: Messages, learn: Learn, given: Mapping[str, Any]
) -> list[tuple[int, int]]:
    """Give where replies begin and end in the rendered chat."""
    whole = _rendered(tokenizer, messages, given)
    places = [n for n, one in enumerate(messages) if one["role"] == "assistant"]
    spans = []
    for place in places if learn == "replies" else places[-1:]:
        before = _rendered(tokenizer, messages[:place], given, add_generation_prompt=True)
        until = _rendered(tokenizer, messages[: place + 1], given).rstrip()
        if not (whole.startswith(until) and until.startswith(before.rstrip())):
            raise ValueError(
                f"expected a chat template that keeps what it wrote when message {place} follows, "
                "got one that rewrites it; write `learn: last`, or mark replies in the template "
                "with {% generation %}"
            )
        spans.append((len(before), len(until)))
    return spans


def _rendered(tokenizer: Any, messages: Messages, given: Mapping[str, Any], **options: bool) -> str:
    """Render a chat as text; what a template raises is the sample's fault."""
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, **given, **options
        )
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"expected a chat that fits the chat template, got {line}") from None
    return text


def _template(tokenizer: Any) -> str:
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default", "")
    return str(template or "")
