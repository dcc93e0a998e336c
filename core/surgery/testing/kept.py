"""Laws on what is kept: everything after an undo or a refusal; ties, dtypes and devices always."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import torch

from surgery.anatomy.site import Site
from surgery.checks.check import Check, failed, passed
from surgery.flow.prove import Witness
from surgery.operate.edits import Edit, SetTrainable
from surgery.operate.patient import Patient
from surgery.operate.step import Step
from surgery.operate.surgery import Surgery
from surgery.operate.table import named_tensors
from surgery.testing.case import CannotError, Case, stir
from surgery.testing.snapshot import differences, snapshot

_SHOWN = 4


def is_below(name: str, place: str) -> bool:
    """Tell whether a tensor or a module is at or below a place."""
    return not place or f"{name}.".startswith(f"{place}.")


def verdict(wrong: Sequence[str], good: str) -> Check:
    """Give a check, still without a name, that fails where something is wrong."""
    if not wrong:
        return passed("", good)
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return failed("", "; ".join(wrong[:_SHOWN]) + more)


def identity_at_init(case: Case) -> Check:
    """Compare outputs before and after, where all surgeries promise that they are equal."""
    patient = case.patient()
    witness = Witness(patient, case.steps)
    with case.apply(patient):
        return witness.check(patient)


def undo_is_exact(case: Case) -> Check:
    """Look for anything that an undo leaves behind, though what was added was trained meanwhile."""
    patient = case.patient()
    before = snapshot(patient)
    done = case.apply(patient)
    base = [name for name in done.plan.trainable if name not in done.plan.slots]
    trained = [] if case.device == "meta" else stir(patient.model, base)
    done.undo()
    left = differences(before, snapshot(patient))
    return verdict(left, f"{len(before.facts)} facts, {len(trained)} tensors trained meanwhile")


def refusal_leaves_no_trace(case: Case) -> Check:
    """Let a last step break half-way, and look for anything that is left of it and of the others.

    Where the steps are refused by themselves, that refusal is looked at.
    """
    patient = case.patient()
    before = snapshot(patient)
    broken = Step(Breaking(), case.steps[-1].at, overlap=True, where="the step that breaks")
    try:
        case.apply(patient, [*case.steps, broken])
    except CannotError as error:
        return verdict(differences(before, snapshot(patient)), f"refused: {error}")
    return failed("", "a step that breaks was applied")


class Breaking(Surgery):
    """Change something, then something that is not there."""

    name: ClassVar[str] = "breaking"

    def refuse(self, site: Site) -> str | None:
        """Refuse nothing."""
        return None

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Give an edit that can be placed, and one that cannot."""
        for name, parameter in patient.model.named_parameters():
            yield SetTrainable(name, trainable=not parameter.requires_grad)
        yield SetTrainable("no.such.tensor", trainable=True)


def ties_survive(case: Case) -> Check:
    """Look for tensors and modules that were one and are two, though no surgery is there for that.

    Where one is, what was tied at its sites may be apart.
    """
    patient = case.patient()
    before = dict(_ties(patient))
    with case.apply(patient) as done:
        here = dict(_addresses(patient))
        steps = [step for step in done.plan.steps if step.step.surgery.unties]
    free = [place for step in steps for site in step.sites for place in site.paths]
    apart = [
        f"{name} and {first} are two now"
        for name, first in before.items()
        if here.get(name, 0) != here.get(first, here.get(name, 0))
        and not any(is_below(one, place) for one in (name, first) for place in free)
    ]
    return verdict(apart, f"{len(before)} names of tied tensors and modules")


def _ties(patient: Patient) -> Iterator[tuple[str, str]]:
    """Give each further name of what has several, with its first name."""
    first: dict[int, str] = {}
    for name, address in _addresses(patient):
        if first.setdefault(address, name) != name:
            yield name, first[address]


def _addresses(patient: Patient) -> Iterator[tuple[str, int]]:
    for path, module in patient.model.named_modules(remove_duplicate=False):
        yield path, id(module)
    for name, tensor, _ in named_tensors(patient.model):
        yield name, id(tensor)


def dtype_and_device_are_kept(case: Case) -> Check:
    """Look for tensors of another dtype or device than the base's.

    What is added may be float32 in any model, as what is trained often is, or be counts, which
    have a dtype of their own. A surgery with an option ``dtype`` may give what it changes the
    dtype that it states.
    """
    patient = case.patient()
    before = {name: tensor.dtype for name, tensor, _ in named_tensors(patient.model)}
    usual = {torch.float32, *before.values()}
    stated = any(getattr(step.surgery, "dtype", None) for step in case.steps)
    device = torch.device(case.device).type
    with case.apply(patient):
        wrong = []
        for name, tensor, _ in named_tensors(patient.model):
            fits = tensor.dtype in usual or not tensor.is_floating_point()
            same = tensor.dtype == before[name] if name in before else fits
            if not same and not stated:
                wrong.append(f"{name} is {tensor.dtype}")
            if tensor.device.type != device:
                wrong.append(f"{name} is on {tensor.device}")
    return verdict(wrong, f"{len(before)} tensors on {case.device}")
