"""Trials: what one patient does in one state, and what of it is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from surgery.anatomy.given_inputs import candidates, stated_inputs
from surgery.anatomy.inputs import valued
from surgery.checks.check import FAILED, PASSED, SKIPPED, Check
from surgery.checks.gradients import State, states
from surgery.checks.invariants import tensors_in
from surgery.checks.watch import Mark, Raised, raised, trying, watched
from surgery.flow.check import Inputs
from surgery.flow.prove import violations
from surgery.operate.family import Family, Violation

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.operate.patient import Patient

Breaks: TypeAlias = Literal[
    "surgery", "shapes", "finiteness", "contract", "identity", "gradients", "parallel"
]
"""What a trial breaks: the surgery is refused; the forward does not run; an output is NaN or
infinite; parts do not fit, though the forward runs; outputs changed that may not; a trainable
tensor learns nothing; replicas do not agree."""


Kind: TypeAlias = Literal["base", "alone", "prefix", "parallel"]


@dataclass(frozen=True)
class Trouble:
    """What is wrong in a trial.

    Attributes:
        breaks: what it breaks.
        where: module path or tensor name at which it first shows.
        what: what shows there.
        contract: the contract that is broken, where a family knows one.
    """

    breaks: Breaks
    where: str
    what: str
    contract: Violation | None = None

    def like(self, other: Trouble | None) -> bool:
        """Tell whether another trial is in the same trouble."""
        return other is not None and self._key == other._key

    @property
    def _key(self) -> tuple[str, str, str]:
        return self.breaks, self.where, self.contract.contract if self.contract else ""


@dataclass(frozen=True)
class Trial:
    """One state of the patient that was tried.

    Attributes:
        name: what was tried, such as ``base`` or ``surgeries[1] lora alone``.
        kind: the base, one surgery, the first surgeries, or all of them in parallel.
        surgery: the one surgery that was tried alone, or an empty text.
        checks: what was looked at, in order.
        trouble: the first thing that is wrong, or None.
        skipped: why it was not tried, or an empty text.
        like: name of an earlier trial that is in the same trouble, or an empty text.
    """

    name: str
    kind: Kind
    surgery: str = ""
    checks: tuple[Check, ...] = ()
    trouble: Trouble | None = None
    skipped: str = ""
    like: str = ""

    @property
    def status(self) -> str:
        """How it ended: ``passed``, ``failed`` or ``skipped``."""
        return FAILED if self.trouble else SKIPPED if self.skipped else PASSED


@dataclass(frozen=True)
class Observation:
    """What a patient does; nothing in it is judged.

    Attributes:
        inputs: the keyword arguments of the forward.
        families: names of the families that know the model.
        violations: contracts that do not hold.
        faults: families that could not tell, and why.
        outputs: the floating tensors of a forward without gradients.
        marks: what each module gave.
        order: paths of the modules in the order in which they were first called.
        error: what that forward raised, or None.
        gradients: what the gradient of each trainable tensor is.
        backward: what the forward with gradients, or its backward, raised, or None.
    """

    inputs: Mapping[str, Any]
    families: tuple[str, ...] = ()
    violations: tuple[Violation, ...] = ()
    faults: tuple[str, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    marks: tuple[Mark, ...] = ()
    order: tuple[str, ...] = ()
    error: Raised | None = None
    gradients: Mapping[str, State] = field(default_factory=dict)
    backward: Raised | None = None


def observe(patient: Patient, families: Sequence[Family], asked: Inputs) -> Observation:
    """Run a patient in eval mode: contracts, one forward, and one backward where it runs.

    Args:
        patient: its model has values; of several guessed inputs the first that runs is taken.
        families: what plugins know of kinds of models.
        asked: inputs that are stated by shape, beside those of the patient.

    Raises:
        RecipeError: no input is known and none can be guessed, or one is unknown to the model.
    """
    found = _contracts(_first_that_runs(patient, asked), patient, families)
    return found if found.error else _backward(patient.model, found)


def _first_that_runs(patient: Patient, asked: Inputs) -> Observation:
    model = patient.model
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    known = {**(patient.inputs or {}), **stated_inputs(model, asked.stated, asked.image)}
    first = None
    for guess in candidates(model, known):
        found = _forward(model, valued(guess, device))
        if found.error is None:
            return found
        first = first or found
    assert first is not None
    return first


def _contracts(found: Observation, patient: Patient, families: Sequence[Family]) -> Observation:
    seen = replace(patient, inputs=dict(found.inputs))
    known = list(violations(seen, families))
    return replace(
        found,
        families=tuple(name for name, _ in known),
        violations=tuple(one for _, some in known if isinstance(some, list) for one in some),
        faults=tuple(
            f"{name} broke: {some}" for name, some in known if isinstance(some, Exception)
        ),
    )


def _forward(model: nn.Module, inputs: Mapping[str, Any]) -> Observation:
    outputs: Iterable[Tensor] = ()
    error = None
    with trying(model), torch.no_grad(), watched(model) as watch:
        try:
            outputs = [tensor.detach().clone() for tensor in tensors_in(model(**inputs))]
        except Exception as trouble:
            error = raised(trouble, watch)
    return Observation(
        inputs,
        outputs=tuple(outputs),
        marks=tuple(watch.marks),
        order=tuple(watch.order),
        error=error,
    )


def _backward(model: nn.Module, seen: Observation) -> Observation:
    with trying(model), watched(model, values=False) as watch:
        try:
            return replace(seen, gradients=states(model, seen.inputs))
        except Exception as trouble:
            return replace(seen, backward=raised(trouble, watch))
