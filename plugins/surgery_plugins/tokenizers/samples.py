"""What a training sample must keep: every token that counts, also after it was cut to length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from surgery_plugins.tokenizers.findings import Finding, found


def sample_findings(
    tokenizer: Any, samples: Iterable[str], tokens: Sequence[str], length: int
) -> Iterator[Finding]:
    """Find samples that lose tokens, or hold what the tokenizer cannot spell.

    Args:
        tokenizer: the tokenizer that trains.
        samples: texts as they are trained on.
        tokens: tokens whose number must not change by truncation.
        length: ids to which a sample is cut; 0 for no cut.
    """
    ids = tokenizer.get_vocab()
    for number, text in enumerate(samples, 1):
        whole = tokenizer.encode(text)
        cut = tokenizer.encode(text, truncation=True, max_length=length) if length else whole
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in whole:
            yield found(f"sample {number} holds what no token spells: {text[:40]!r}")
        for token in tokens:
            wanted, kept = text.count(token), cut.count(ids.get(token, -1))
            if wanted != kept:
                yield found(f"sample {number} has {wanted} '{token}' and {kept} ids of it", token)
