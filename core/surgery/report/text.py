"""Text from strangers, made safe to print: names of tensors and files are hostile."""

from __future__ import annotations

import re

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def clean(text: str, *, line: bool = False) -> str:
    """Replace what could drive a terminal or hide text: controls, overrides, lone surrogates.

    Args:
        text: any text.
        line: True to replace line breaks and tabs too.
    """
    safe = _CONTROL.sub(_shown, text)
    return safe.replace("\n", "\\n").replace("\t", "\\t") if line else safe


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
