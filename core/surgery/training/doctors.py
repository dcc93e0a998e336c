"""What plugins' doctors say of a patient before it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from surgery.checks.check import FAILED, PASSED, WARNED, Check, failed, passed, skipped, warned
from surgery.errors import SurgeryError, TrainingError

if TYPE_CHECKING:
    from surgery.hooks.registry import Registry
    from surgery.operate.doctor import Doctor
    from surgery.operate.patient import Patient
    from surgery.recipe.train_form import Level

GUARD = "doctors"
"""Name of the guard."""


def examined(patient: Patient, known: Registry, level: Level = "error") -> Iterator[Check]:
    """Have every doctor that a patient concerns examine it, with the options' defaults.

    Args:
        patient: after its surgeries.
        known: what the plugins offer.
        level: with ``warn`` nothing fails, with ``off`` nobody looks.

    Yields:
        One check for each doctor.
    """
    for name in known.names("doctor"):
        doctor = known.offer("doctor", name).value()
        if not doctor.applies(patient):
            continue
        if level == "off":
            yield skipped(f"doctor {name}", f"the recipe says `guards: {{{GUARD}: off}}`")
        else:
            yield _by(doctor, patient, level)


def admit(patient: Patient, known: Registry, level: Level, remark: Callable[[str], object]) -> None:
    """Let a patient be trained only if no doctor finds a mistake; the rest is remarked.

    Args:
        patient: after its surgeries.
        known: what the plugins offer.
        level: of the guard.
        remark: called with what may be meant, and is known to mislead.

    Raises:
        TrainingError: a doctor found a mistake.
    """
    for check in examined(patient, known, level):
        name = check.name.removeprefix("doctor ")
        if check.status == WARNED:
            remark(f"{GUARD}: {check.name}: {check.detail}")
        if check.status == FAILED:
            cure = known.offer("doctor", name).value.cure
            raise TrainingError(
                f"train: guard {GUARD}", f"a patient in which {check.name} finds no mistake",
                check.detail, f"{cure}; or write `guards: {{{GUARD}: warn}}`",
            )  # fmt: skip


def _by(doctor: Doctor, patient: Patient, level: Level) -> Check:
    """Make one check of all that a doctor finds: its mistakes, or else what may mislead."""
    name = f"doctor {doctor.name}"
    try:
        checks = list(doctor.examine(patient, None))
    except SurgeryError as error:
        checks = [failed(name, str(error))]
    for status, say in ((FAILED, failed if level == "error" else warned), (WARNED, warned)):
        found = [check for check in checks if check.status == status]
        if found:
            return say(name, "; ".join(f"{check.name}: {check.detail}" for check in found))
    made = sum(check.status == PASSED for check in checks)
    return passed(name, f"{made} checks, {len(checks) - made} could not be made")
