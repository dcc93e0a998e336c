"""The proof: which checks are made after an apply, and with what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, finfo

from surgery.anatomy.inputs import real_inputs
from surgery.checks.check import Check, failed, passed, skipped
from surgery.checks.invariants import finite, identity, run, same_table, vocabulary
from surgery.operate.family import Family, Violation
from surgery.operate.operation import Operation
from surgery.operate.patient import Patient
from surgery.operate.plan import Plan
from surgery.operate.step import Step

LIMIT = 2_000_000_000
"""Parameters above which a forward is not run unless it is asked for."""


class Witness:
    """Remember what the patient answers before the operation, to compare with after.

    Attributes:
        skipped: why no forward is compared, or an empty text.
        rounding: by how much outputs may differ, as a share; 0 where they must be equal.
    """

    def __init__(self, patient: Patient, steps: Sequence[Step], always: bool = False) -> None:
        self.inputs: Mapping[str, Any] = {}
        self.before: list[Tensor] = []
        self.skipped = _why_not(patient, steps, always)
        self.rounding = rounding_of(patient, steps)
        if not self.skipped:
            self._run(patient)

    def _run(self, patient: Patient) -> None:
        try:
            self.inputs = real_inputs(patient.model, patient.inputs)
            self.before = run(patient.model, self.inputs)
        except Exception as error:
            self.skipped = f"the base ran no forward: {type(error).__name__}: {error}"

    def check(self, patient: Patient) -> Check:
        """Run the same forward again and compare every bit."""
        name = "identity at init"
        if self.skipped:
            return skipped(name, self.skipped)
        try:
            return identity(self.before, run(patient.model, self.inputs), self.rounding)
        except Exception as error:
            return failed(name, f"the forward breaks: {type(error).__name__}: {error}")


def rounding_of(patient: Patient, steps: Sequence[Step]) -> float:
    """Give by how much outputs may differ after steps that promise them to be equal or close.

    Args:
        patient: before the steps.
        steps: the surgeries, none of which changes outputs at init.

    Returns:
        A share of the outputs' length: 0, or the square root of the parameters' coarsest precision.
    """
    kinds = {p.dtype for p in patient.model.parameters() if p.is_floating_point()}
    close = any(step.surgery.at_init == "close" for step in steps)
    return max((finfo(kind).eps for kind in kinds), default=0.0) ** 0.5 if close else 0.0


def _why_not(patient: Patient, steps: Sequence[Step], always: bool) -> str:
    promised = [step.surgery for step in steps if step.surgery.at_init == "changed"]
    if promised:
        return f"{promised[0].name} does not promise it"
    tensors = list(patient.model.parameters())
    if any(tensor.device.type == "meta" for tensor in tensors):
        return "the patient is on meta, it has no values"
    count = sum(tensor.numel() for tensor in tensors)
    if count > LIMIT and not always:
        return f"{count} parameters; ask for it with --prove-forward"
    return ""


def prove(
    operation: Operation,
    *,
    planned: Plan | None = None,
    witness: Witness | None = None,
    families: Iterable[Family] = (),
) -> list[Check]:
    """Check the invariants of a patient that was operated on.

    Args:
        operation: what was done.
        planned: the plan made on meta, where there is one.
        witness: the answers before, where they were taken.
        families: what plugins know of kinds of models.
    """
    patient = operation.patient
    checks = [_matches(planned, operation), _finite(operation), _vocabulary(patient)]
    if witness is not None:
        checks.append(witness.check(patient))
    for planned_step in operation.steps:
        checks += planned_step.step.surgery.checks(patient)
    return [*checks, *contracts(patient, families)]


def _matches(planned: Plan | None, operation: Operation) -> Check:
    if planned is None:
        return skipped("plan equals model", "operated directly, without a plan on meta")
    return same_table(planned.after, operation.plan.after)


def _finite(operation: Operation) -> Check:
    slots = operation.transaction.slots
    filled = {slot.name: slot.values for slot in slots if slot.values is not None}
    if len(filled) < len(slots):
        return skipped("finite values", "the patient is on meta, it has no values")
    return finite(filled)


def _vocabulary(patient: Patient) -> Check:
    get = getattr(patient.model, "get_input_embeddings", None)
    try:
        table = getattr(get() if get else None, "weight", None)
    except NotImplementedError:
        table = None
    config = patient.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return vocabulary(
        rows=table.shape[0] if table is not None and table.dim() == 2 else None,
        tokens=len(patient.tokenizer) if patient.tokenizer is not None else None,
        stated=getattr(text, "vocab_size", None),
    )


def contracts(patient: Patient, families: Iterable[Family]) -> Iterator[Check]:
    """Check the contracts of every family that knows a patient; a broken one is named."""
    return contract_checks(violations(patient, families))


def violations(
    patient: Patient, families: Iterable[Family]
) -> Iterator[tuple[str, list[Violation] | Exception]]:
    """Give each family that knows a patient with the contracts that do not hold.

    Args:
        patient: what is checked.
        families: what plugins know of kinds of models.

    Returns:
        Names of families; with each its violations, or what it raised.
    """
    for family in families:
        try:
            if family.matches(patient.model):
                yield family.name, list(family.contracts(patient))
        except Exception as error:
            yield family.name, error


def contract_checks(
    found: Iterable[tuple[str, list[Violation] | Exception]],
) -> Iterator[Check]:
    """Give a check for each family; one that says nobody knew the patient where there is none."""
    any_family = False
    for family, broken in found:
        any_family, name = True, f"contracts of {family}"
        if isinstance(broken, Exception):
            yield skipped(name, f"the family broke: {type(broken).__name__}: {broken}")
        else:
            yield failed(name, " | ".join(map(str, broken))) if broken else passed(name)
    if not any_family:
        yield skipped("contracts", "no installed family knows this model")
