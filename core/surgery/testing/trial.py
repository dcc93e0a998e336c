"""Trials: each example of each surgery, on each patient, against each law."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from surgery.checks.check import Check, failed, passed, skipped
from surgery.checks.watch import told
from surgery.errors import PluginError, SurgeryError, did_you_mean
from surgery.hooks.discover import normal_name
from surgery.hooks.registry import Registry
from surgery.operate.source import Source
from surgery.operate.surgery import Surgery
from surgery.testing.case import CannotError, Case, case_of
from surgery.testing.companion import with_companion
from surgery.testing.laws import LAWS, held
from surgery.testing.options import (
    examples_are_stated,
    options_are_documented,
    steps_of_example,
)

OF_CLASSES: Mapping[str, Callable[[type[Surgery], Registry], Check]] = {
    "examples stated": examples_are_stated,
    "options documented and in the schema": options_are_documented,
}
"""The laws on a surgery's class alone, by name."""

FITS = "operates on some patient"
"""The law on an example and all patients: where all refuse it, no other law says anything."""

ORDER = "order of independent surgeries does not matter"
"""The law that needs a second step."""

Patients: TypeAlias = Mapping[str, Callable[[], Source]]
"""Patients by name; each is made when it is first called for."""


@dataclass(frozen=True)
class Trial:
    """One law, and what is held against it.

    Attributes:
        surgery: the class.
        law: the law's name.
        example: number of the example; None for a law on the class.
        patient: the patient's name; empty for a law on all of them.
    """

    surgery: type[Surgery]
    law: str
    example: int | None = None
    patient: str = ""

    @property
    def subject(self) -> str:
        """What is tried, such as ``acme/shrink[0]``."""
        number = "" if self.example is None else f"[{self.example}]"
        return f"{self.surgery.name}{number}"


def surgeries_of(known: Registry, names: Iterable[str]) -> list[type[Surgery]]:
    """Give the surgeries that are meant by their names, or by that of who offers them.

    Args:
        known: what the plugins offer.
        names: of surgeries, of distributions, or of local files.

    Raises:
        PluginError: nothing has such a name.
    """
    offers = [offer for offer in known.offers if offer.kind == "surgery"]
    found: dict[type[Surgery], None] = {}
    for name in names:
        owned = {o.value: None for o in offers if normal_name(name) == normal_name(o.plugin[0])}
        named = {o.value: None for o in offers if o.name == name}
        if not (owned or named):
            words = [word for offer in offers for word in (offer.name, offer.plugin[0])]
            raise PluginError(
                f"surgeries of '{name}'", "the name of a surgery, or of a plugin that offers some",
                "a name that no plugin offers", did_you_mean(name, words),
            )  # fmt: skip
        found |= owned or named
    return list(found)


def trials(surgeries: Iterable[type[Surgery]], patients: Iterable[str]) -> Iterator[Trial]:
    """Give every trial of some surgeries.

    Args:
        surgeries: the classes.
        patients: names of the patients.
    """
    names = list(patients)
    for surgery in surgeries:
        yield from (Trial(surgery, law) for law in OF_CLASSES)
        for number in range(len(surgery.examples)):
            yield Trial(surgery, FITS, number)
            yield from (Trial(surgery, law, number, name) for name in names for law in LAWS)


def judged(trial: Trial, patients: Patients, known: Registry) -> Check:
    """Hold a trial against its law; whatever is raised breaks it.

    Args:
        trial: what to hold.
        patients: where they come from.
        known: what the plugins offer, the patients' sources among it.
    """
    try:
        if trial.law in OF_CLASSES:
            return replace(OF_CLASSES[trial.law](trial.surgery, known), name=trial.law)
        if trial.law == FITS:
            return _fits(trial, patients, known)
        case = case_of_trial(trial, patients[trial.patient](), known)
        case = with_companion(case) if trial.law == ORDER else case
    except CannotError as error:
        return skipped(trial.law, f"refused: {error}")
    except Exception as error:
        return failed(trial.law, told(error))
    return held(trial.law, case)


def case_of_trial(trial: Trial, source: Source, known: Registry) -> Case:
    """Give the case of an example on a patient.

    Raises:
        SurgeryError: the example has mistakes.
    """
    return case_of(source, steps_of_example(trial.surgery, trial.example or 0), known)


def _fits(trial: Trial, patients: Patients, known: Registry) -> Check:
    """Look for patients on which an example operates, on meta."""
    fitting, refusals = [], []
    for name, source in patients.items():
        try:
            case = replace(case_of_trial(trial, source(), known), device="meta")
            with case.applied():
                fitting.append(name)
        except (CannotError, SurgeryError) as error:
            refusals.append(f"{name}: {error}")
    if fitting:
        return passed(trial.law, ", ".join(fitting))
    return failed(trial.law, "; ".join(refusals[:3]))
