"""Check a recipe before any weight is read: contracts, and a forward on meta."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from surgery.anatomy.given_inputs import Size, apart, candidates, stated_inputs
from surgery.anatomy.rehearse import Rehearsal, rehearse
from surgery.anatomy.stated import Stated
from surgery.checks.check import FAILED, SKIPPED, Check, failed, passed, skipped, warned
from surgery.errors import RecipeError
from surgery.flow.prove import contract_checks, violations
from surgery.flow.recipe import plan_recipe
from surgery.hooks.registry import Registry
from surgery.operate.family import Family, Violation
from surgery.operate.patient import Patient
from surgery.recipe.recipe import Recipe

FORWARD = "forward on meta"


@dataclass(frozen=True)
class Examined:
    """What was found of a patient on meta.

    Attributes:
        checks: the contracts of each family that knows the patient, and the forward.
        violations: contracts that do not hold, with the names of their families.
        rehearsal: the forward, or None where it was left out.
    """

    checks: tuple[Check, ...]
    violations: tuple[tuple[str, Violation], ...] = ()
    rehearsal: Rehearsal | None = None

    @property
    def ok(self) -> bool:
        """True where no check failed, and at least one was made."""
        ways = {check.status for check in self.checks}
        return FAILED not in ways and bool(ways - {SKIPPED})

    @property
    def complete(self) -> bool:
        """True where every check was made."""
        return all(check.status != SKIPPED for check in self.checks)


@dataclass(frozen=True)
class Inputs:
    """What a forward is rehearsed with.

    Attributes:
        stated: inputs by name, each by its shape.
        image: height and width of images in pixels, stated or guessed.
    """

    stated: Mapping[str, Stated] = field(default_factory=dict)
    image: Size | None = None


def check_recipe(recipe: Recipe, known: Registry, inputs: Inputs | None = None) -> Examined:
    """Plan a recipe and check what it makes; no weight is read.

    Args:
        recipe: what to do, and with which inputs to check it.
        known: what the plugins offer.
        inputs: inputs that go before those of the recipe.

    Raises:
        SurgeryError: the patient cannot be built, a step is refused, or an input is unknown.
    """
    given = inputs or Inputs()
    stated = recipe.check.stated() if recipe.check else {}
    both = Inputs({**stated, **given.stated}, given.image)
    return check_patient(plan_recipe(recipe, known).patient, known.families(), both)


def check_patient(patient: Patient, families: Iterable[Family], inputs: Inputs) -> Examined:
    """Check the contracts of a patient on meta, and rehearse a forward.

    Args:
        patient: the patient, as it is after all surgeries.
        families: what plugins know of kinds of models.
        inputs: what to rehearse with; what is not stated is guessed.

    Raises:
        RecipeError: an input is unknown.
    """
    model, image = patient.model, inputs.image
    beside = apart(model, image) if image is not None else {}
    asked = stated_inputs(model, inputs.stated, None if beside else image)
    known = {**(patient.inputs or {}), **asked}
    seen = replace(patient, inputs={**known, **beside} or None)
    found = list(violations(seen, families))
    broken = tuple((name, one) for name, some in found if isinstance(some, list) for one in some)
    check, rehearsal = _forward(model, known, inputs.stated)
    return Examined((*contract_checks(found), check), broken, rehearsal)


def _forward(
    model: nn.Module, known: Mapping[str, Any], fixed: Iterable[str]
) -> tuple[Check, Rehearsal | None]:
    """Rehearse with the most complete inputs; that fewer run where those break is a warning."""
    if any(not tensor.is_meta for tensor in model.parameters()):
        return skipped(FORWARD, "the patient has weights"), None
    try:
        first, *others = candidates(model, known, fixed)
    except RecipeError as error:
        return skipped(FORWARD, f"wants {error.wanted}, {error.found}; {error.instead}"), None
    found = rehearse(model, first)
    if not found.failure:
        return passed(FORWARD, _ran(found)), found
    if found.unwritten:
        return skipped(FORWARD, f"{type(model).__name__} has no forward of its own"), None
    return _after(found, others, model, first.keys())


def _after(
    found: Rehearsal, others: Iterable[Mapping[str, Any]], model: nn.Module, names: Collection[str]
) -> tuple[Check, Rehearsal]:
    """Try other guesses after one that broke; of those that break too, show the one that got on."""
    for inputs in others:
        other = rehearse(model, inputs)
        same = inputs.keys() == names
        if not other.failure and same:
            return passed(FORWARD, _ran(other)), other
        if not other.failure:
            return warned(FORWARD, f"{_ran(other)}; with more, {broke(found)}"), found
        if same and other.done > found.done:
            found = other
    return failed(FORWARD, broke(found)), found


def _ran(rehearsal: Rehearsal) -> str:
    outputs = ", ".join(f"{n} {s}" for n, s in list(rehearsal.outputs.items())[:3])
    return f"{told(rehearsal)} -> {outputs}"


def told(rehearsal: Rehearsal) -> str:
    """Name the inputs of a forward with their shapes."""
    return ", ".join(f"{name} {shape}" for name, shape in rehearsal.inputs.items())


def broke(rehearsal: Rehearsal) -> str:
    """Say with which inputs a forward broke off, in which module, and why."""
    given = f", called with {', '.join(rehearsal.given)}" if rehearsal.given else ""
    where = rehearsal.where or "the model itself"
    return f"{told(rehearsal)}: breaks off in {where}{given}: {rehearsal.failure}"
