"""Scalars of YAML 1.2's core schema: ``2e-4`` is a number, ``on`` and ``1:30`` are text.

Source: YAML 1.2.2, section 10.3.2, https://yaml.org/spec/1.2.2/#1032-tag-resolution
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from surgery.recipe.nodes import Scalar

LONGEST_NUMBER = 100
"""Digits that a number may have; longer ones are refused, as reading them costs time."""

_FORMS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"(?:null|Null|NULL|~|)"), lambda text: None),
    (re.compile(r"(?:true|True|TRUE)"), lambda text: True),
    (re.compile(r"(?:false|False|FALSE)"), lambda text: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text, 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text, 16)),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)"), lambda text: float(text.replace(".", "").lower())),
    (re.compile(r"\.(?:nan|NaN|NAN)"), lambda text: float("nan")),
)


def resolve(text: str) -> Scalar:
    """Read a scalar that was written without quotes.

    Raises:
        ValueError: it is a number with too many digits.
    """
    for form, read in _FORMS:
        if form.fullmatch(text):
            if len(text) > LONGEST_NUMBER:
                raise ValueError(f"a number of {len(text)} digits")
            return read(text)  # type: ignore[no-any-return]
    return text
