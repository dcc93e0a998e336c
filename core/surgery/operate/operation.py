"""Operate on a patient: select, refuse, check claims, place. Everything or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from surgery.anatomy.select import Selection, select
from surgery.anatomy.site import Anatomy, Site
from surgery.anatomy.walk import walk
from surgery.errors import IntegrityError, RefusedError, SurgeryError
from surgery.operate.claims import Claims
from surgery.operate.family import Family
from surgery.operate.patient import Patient
from surgery.operate.plan import Plan, PlannedStep
from surgery.operate.slots import Slot
from surgery.operate.step import Step
from surgery.operate.table import named_tensors, table_of
from surgery.operate.transaction import Transaction


@dataclass(eq=False)
class Operation:
    """What was done to a patient, and how to take it back.

    Attributes:
        patient: what was operated on.
        transaction: what was placed.
        seed: the recipe's seed.
        steps: the planned steps.
        notes: remarks on the anatomy.
    """

    patient: Patient
    transaction: Transaction
    seed: int
    steps: list[PlannedStep] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def plan(self) -> Plan:
        """The exact difference that was made."""
        return Plan(
            seed=self.seed,
            steps=tuple(self.steps),
            before=self.transaction.before,
            after=table_of(named_tensors(self.patient.model)),
            slots=self.slots,
            notes=tuple(dict.fromkeys(self.notes)),
        )

    @property
    def slots(self) -> Mapping[str, Slot]:
        """Every tensor that was added or changed and is still there, by its name now."""
        known = {
            id(tensor): slot
            for slot in self.transaction.slots
            for tensor in (slot.placeholder, slot.values)
            if tensor is not None
        }
        found: dict[int, str] = {}
        for name, tensor, _ in named_tensors(self.patient.model):
            found.setdefault(id(tensor), name)
        return {name: known[key] for key, name in found.items() if key in known}

    def undo(self) -> None:
        """Take everything back; the patient has its exact bits again, and the plan stays."""
        self.plan  # noqa: B018  (made from what is placed, which is about to go)
        self.transaction.rollback()


def operate(
    patient: Patient,
    steps: Sequence[Step],
    *,
    seed: int = 0,
    families: Sequence[Family] = (),
    sites: Sequence[Sequence[Site]] | None = None,
) -> Operation:
    """Place all steps on a patient, or none.

    Args:
        patient: what to operate on; its model is changed in place, new tensors stay on meta.
        steps: the recipe's steps.
        seed: the recipe's seed.
        families: what plugins know of kinds of models.
        sites: the sites of each step where they are known (replay); else they are selected.

    Raises:
        SurgeryError: a step selects nothing, is refused or contradicts another; the patient is
            then as before.
    """
    operation = Operation(patient, Transaction(patient), seed, notes=list(patient.notes))
    try:
        proceed(operation, steps, families=families, sites=sites)
    except BaseException:
        operation.transaction.rollback()
        raise
    return operation


def proceed(
    operation: Operation,
    steps: Sequence[Step],
    *,
    families: Sequence[Family] = (),
    sites: Sequence[Sequence[Site]] | None = None,
) -> None:
    """Place further steps on a patient that was operated on; one that fails leaves those before.

    Args:
        operation: what was done, before its plan is asked for.
        steps: what to do now.
        families: what plugins know of kinds of models.
        sites: the sites of each step where they are known (replay); else they are selected.

    Raises:
        SurgeryError: a step selects nothing, is refused or contradicts another.
    """
    patient, reading, claims = operation.patient, _Reading(operation.patient, families), Claims()
    for number, step in enumerate(steps):
        known = None if sites is None else tuple(sites[number])
        try:
            planned = _plan_step(step, patient, reading, known)
            claims.add(step, planned.edits)
            operation.transaction.place(planned.edits, len(operation.steps))
        except SurgeryError as error:
            error.begin_at(step.where, step.surgery.name)
            raise
        operation.steps.append(planned)
        reading.renew(operation.transaction)
    operation.notes += reading.notes


class _Reading:
    """Read the anatomy as late and as little as the selectors ask for."""

    def __init__(self, patient: Patient, families: Sequence[Family]) -> None:
        self.patient, self.families = patient, families
        self.notes: list[str] = []
        self._known: dict[bool, Anatomy] = {}

    def of(self, traced: bool) -> Anatomy:
        if True in self._known:
            return self._known[True]
        if traced not in self._known:
            patient = self.patient
            self._known[traced] = walk(
                patient.model, patient.inputs, families=self.families, trace=traced
            )
            self.notes += self._known[traced].notes
        return self._known[traced]

    def renew(self, transaction: Transaction) -> None:
        if transaction.reshaped:
            self._known.clear()
            transaction.reshaped = False


def _plan_step(
    step: Step, patient: Patient, reading: _Reading, known: tuple[Site, ...] | None
) -> PlannedStep:
    if known is not None:
        _check_there(step, known, patient)
        _refuse(step, known)
        return _planned(step, patient, known)
    selection = _select(step, reading, step.at.needs_trace)
    sites = step.surgery.scope(selection, patient)
    if not step.at.needs_trace and _refused(step, sites):
        selection = _select(step, reading, True)
        sites = step.surgery.scope(selection, patient)
    _refuse(step, sites)
    return _planned(step, patient, tuple(sites), tuple(selection.coverage()))


def _check_there(step: Step, sites: Sequence[Site], patient: Patient) -> None:
    """Check that a model has the sites of a record, with the shapes that they had."""
    modules = dict(patient.model.named_modules(remove_duplicate=False))
    for site in sites:
        path, _, leaf = (site.parameter or "").rpartition(".")
        found = modules[path]._parameters.get(leaf) if path in modules else None
        there = site.parameter is not None or site.path in modules
        if not there or (site.parameter and (found is None or tuple(found.shape) != site.shape)):
            has = "nothing there" if found is None else f"shape {tuple(found.shape)}"
            raise IntegrityError(
                f"{step.where} ({step.surgery.name})",
                f"the site {site.path} with shape {site.shape}",
                has,
                "is this the base that the record was made on?",
            )


def _select(step: Step, reading: _Reading, traced: bool) -> Selection:
    """Select a step's sites; without an observed forward where the selector asks for none."""
    return select(reading.of(traced), step.at, expect=step.expect, where=f"{step.where}.at")


def _planned(
    step: Step, patient: Patient, sites: tuple[Site, ...], coverage: tuple[str, ...] = ()
) -> PlannedStep:
    surgery = step.surgery.settled(sites, patient)
    edits, notes = tuple(surgery.operate(sites, patient)), tuple(surgery.notes(sites, patient))
    return PlannedStep(replace(step, surgery=surgery), sites, edits, coverage, notes)


def _refused(step: Step, sites: Sequence[Site]) -> list[tuple[Site, str]]:
    return [(site, why) for site in sites if (why := step.surgery.refuse(site)) is not None]


def _refuse(step: Step, sites: Sequence[Site]) -> None:
    refused = _refused(step, sites)
    if not refused:
        return
    shown = "; ".join(f"{site.path}: {why}" for site, why in refused[:5])
    more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
    raise RefusedError(
        f"{step.where} ({step.surgery.name})",
        f"sites that {step.surgery.name} can operate on",
        f"{len(refused)} of {len(sites)} that it cannot: {shown}{more}",
        "narrow `at:` with `type:` or `role:`, or list them under `exclude:`",
    )
