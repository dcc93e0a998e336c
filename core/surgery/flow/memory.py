"""Apply surgeries to a model in memory, and take them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, TypeAlias

from torch import nn

from surgery.checks.check import Check, demand
from surgery.flow.prove import prove
from surgery.hooks.registry import Registry
from surgery.operate.fill import fill
from surgery.operate.journal import Journal, journal_of
from surgery.operate.operation import Operation, operate
from surgery.operate.patient import Patient
from surgery.operate.plan import Plan
from surgery.operate.step import Step

Steps: TypeAlias = "Sequence[Step] | Sequence[Mapping[str, Any]] | Mapping[str, Any]"
"""Steps as values, or as a recipe writes them, or one of the latter."""


class Applied:
    """A patient that was operated on; leaving it as a context manager undoes everything.

    Attributes:
        operation: what was placed.
        checks: the proof.
        base: where the patient came from, for the journal.
    """

    def __init__(
        self, operation: Operation, checks: Sequence[Check], base: Mapping[str, Any] | None = None
    ) -> None:
        self.operation, self.checks, self.base = operation, tuple(checks), dict(base or {})
        self.plan  # noqa: B018  (taken now: training may change what it compares)

    @property
    def patient(self) -> Patient:
        """What was operated on."""
        return self.operation.patient

    @property
    def model(self) -> nn.Module:
        """The patient's model."""
        return self.operation.patient.model

    @cached_property
    def plan(self) -> Plan:
        """The exact difference that was made."""
        return self.operation.plan

    @cached_property
    def journal(self) -> Journal:
        """The record that travels with a checkpoint."""
        return journal_of(self.plan, self.base)

    def undo(self) -> None:
        """Take everything back; the patient has its exact bits again."""
        self.operation.undo()

    def __enter__(self) -> Applied:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()
