"""A law on refusals: they say why, they are errors for users, and nothing is left of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from surgery.anatomy.selector import Selector
from surgery.anatomy.site import Site
from surgery.anatomy.walk import walk
from surgery.checks.check import Check
from surgery.operate.step import Step
from surgery.testing.case import CannotError, Case
from surgery.testing.kept import verdict
from surgery.testing.snapshot import differences, snapshot


def refuses_cleanly(case: Case) -> Check:
    """Ask each surgery about every site of the patient, and operate where the first says no.

    What ``refuse`` gives is None or a clause, asking changes nothing, and whoever selects a site
    that is refused gets an error of this package and his patient as it was.
    """
    patient = case.source.build()
    sites = walk(patient.model, patient.inputs).sites
    before = snapshot(patient)
    wrong = [told for step in case.steps for site in sites if (told := _odd(step, site))]
    wrong += differences(before, snapshot(patient))
    refused = next(_refused(case, sites), None)
    if refused is None:
        return verdict(wrong, f"{len(sites)} sites, none of them refused")
    steps, path = refused
    try:
        with case.apply(patient, steps):
            wrong.append(f"{path} was refused, and operated on")
    except CannotError:
        wrong += differences(before, snapshot(patient))
    return verdict(wrong, f"{len(sites)} sites; refused: {path}")


def _odd(step: Step, site: Site) -> str:
    """Say what is wrong with an answer; an empty text where it is None or a clause."""
    answer = step.surgery.refuse(site)
    fine = answer is None or (isinstance(answer, str) and answer.strip())
    return "" if fine else f"refuse({site.path}) of {step.surgery.name} gives {answer!r}"


def _refused(case: Case, sites: tuple[Site, ...]) -> Iterator[tuple[list[Step], str]]:
    """Give the steps up to one that is pointed at a site that it refuses, and that site."""
    for number, step in enumerate(case.steps):
        for site in sites:
            if site.part is None and site.path and step.surgery.refuse(site) is not None:
                at = Selector(path=(site.path,))
                yield [*case.steps[:number], replace(step, at=at)], site.path
