"""Consent to run a model's own code: given on the command line, never by a recipe alone."""

from __future__ import annotations

from contextvars import ContextVar

from surgery.errors import PatientError

CONSENT: ContextVar[bool] = ContextVar("surgery_trust_remote_code", default=False)
"""True while the user's ``--trust-remote-code`` is in force."""


def demand_trust(where: str) -> None:
    """Raise unless the user consented to run code that comes with a model.

    Raises:
        PatientError: nobody did.
    """
    if not CONSENT.get():
        raise PatientError(
            where,
            "consent to run the code that comes with the model",
            "a recipe that asks for it",
            "read the code, then add --trust-remote-code to the command",
        )
