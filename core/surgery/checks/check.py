"""The outcome of one check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from surgery.errors import Problems, ProofError

PASSED, FAILED, SKIPPED, WARNED = "passed", "failed", "skipped", "warned"


@dataclass(frozen=True, slots=True)
class Check:
    """Say what was checked and how it ended.

    Attributes:
        name: what was checked.
        status: ``passed``, ``failed``, ``skipped``, or ``warned`` where what was found may be
            meant but is known to mislead.
        detail: what was found; of a skipped check, why it was skipped.
    """

    name: str
    status: str
    detail: str = ""

    def to_json(self) -> dict[str, str]:
        """Give the outcome as JSON values."""
        return {"name": self.name, "status": self.status, "detail": self.detail}


def passed(name: str, detail: str = "") -> Check:
    """Give a check that holds."""
    return Check(name, PASSED, detail)


def failed(name: str, detail: str) -> Check:
    """Give a check that does not hold."""
    return Check(name, FAILED, detail)


def warned(name: str, detail: str) -> Check:
    """Give a check that found something that may be meant, but is known to mislead."""
    return Check(name, WARNED, detail)


def skipped(name: str, why: str) -> Check:
    """Give a check that was not made."""
    return Check(name, SKIPPED, why)


def demand(checks: Iterable[Check], where: str) -> None:
    """Raise unless no check failed.

    Raises:
        Problems: one ``ProofError`` for each check that failed.
    """
    errors = [
        ProofError(f"{where}: {check.name}", "a check that passes", check.detail)
        for check in checks
        if check.status == FAILED
    ]
    if errors:
        raise Problems(where, errors)
