"""Findings: what a check saw of which tokens, and how grave it is for whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgery.checks.check import Check

SHOWN = 4
"""Findings that a check's detail spells out."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check saw.

    Attributes:
        text: what, for people.
        tokens: the tokens that it is about; none where it is about the whole.
        grave: True for a mistake, False for what is known to mislead.
    """

    text: str
    tokens: frozenset[str] = frozenset()
    grave: bool = True


def found(text: str, *tokens: str) -> Finding:
    """Give a mistake."""
    return Finding(text, frozenset(tokens))


def noted(text: str, *tokens: str) -> Finding:
    """Give what may be meant, and is known to mislead."""
    return Finding(text, frozenset(tokens), grave=False)


def check_of(
    name: str, findings: Iterable[Finding], required: frozenset[str] | None, good: str = ""
) -> Check:
    """Make a check of findings.

    Args:
        name: what was checked.
        findings: what was seen.
        required: the tokens whose mistakes are failures, others' only warnings; None for all.
        good: what is said where nothing was seen.
    """
    from surgery.checks.check import failed, passed, warned

    seen = list(findings)
    grave = [f for f in seen if f.grave and _concerns(f, required)]
    if grave:
        return failed(name, _joined([*grave, *(f for f in seen if f not in grave)]))
    return warned(name, _joined(seen)) if seen else passed(name, good)


def _concerns(finding: Finding, required: frozenset[str] | None) -> bool:
    return required is None or not finding.tokens or bool(finding.tokens & required)


def _joined(findings: list[Finding]) -> str:
    more = f"; and {len(findings) - SHOWN} more" if len(findings) > SHOWN else ""
    return "; ".join(finding.text for finding in findings[:SHOWN]) + more
