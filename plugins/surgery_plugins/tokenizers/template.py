"""What a chat template writes must be tokens, not their spelling."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from surgery_plugins.tokenizers.contexts import wrong_literals
from surgery_plugins.tokenizers.findings import Finding, found, noted

_MARK = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z][A-Z_0-9]*\]")
"""What looks like a token of its own: ``<|end|>``, ``<image>``, ``[INST]``."""

_TALK = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]


def literals(template: str) -> tuple[str, ...]:
    """Give what a chat template writes that looks like a token, in order.

    Raises:
        TemplateSyntaxError: the template is no Jinja.
    """
    from jinja2 import Environment, nodes

    tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    texts = [str(node.data) for node in tree.find_all(nodes.TemplateData)]
    texts += [n.value for n in tree.find_all(nodes.Const) if isinstance(n.value, str)]
    return tuple(dict.fromkeys(mark for text in texts for mark in _MARK.findall(text)))


def template_findings(tokenizer: Any) -> Iterator[Finding]:
    """Find literals of the chat template that are several ids, and what it cannot render."""
    templates = tokenizer.chat_template
    named = templates.items() if isinstance(templates, dict) else [("", templates)]
    for name, template in named:
        try:
            yield from wrong_literals(tokenizer, literals(template))
        except Exception as error:
            yield found(f"the chat template {name} cannot be read: {error}")
            return
    yield from _rendered(tokenizer)


def _rendered(tokenizer: Any) -> Iterator[Finding]:
    try:
        ids = tokenizer.apply_chat_template(_TALK, tokenize=True, return_dict=False)
    except Exception as error:
        yield noted(f"the chat template renders no plain talk: {type(error).__name__}: {error}")
        return
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        text = tokenizer.apply_chat_template(_TALK, tokenize=False)
        yield found(f"the chat template writes what no token spells: {text[:60]!r}")
