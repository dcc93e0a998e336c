"""Laws on what differs: the plan says all of it, and the order of surgeries changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from surgery.checks.check import Check, failed, skipped
from surgery.checks.invariants import same_table
from surgery.flow.memory import plan
from surgery.operate.edits import Extend, Place, SetConfig
from surgery.operate.plan import Plan, PlannedStep
from surgery.testing.case import CannotError, Case, answers
from surgery.testing.kept import is_below, verdict
from surgery.testing.snapshot import Snapshot, differences, snapshot

_OF_TENSORS = ("form of ", "bits of ", "trainable flag of ", "object of tensor ")


def plan_is_exact(case: Case) -> Check:
    """Hold the plan that is made on meta against what an apply does."""
    with case.applied() as done:
        planned = plan(case.source.build(), case.steps, seed=case.seed, plugins=case.known)
        return replace(same_table(planned.after, done.plan.after), name="")


def nothing_else_is_touched(case: Case) -> Check:
    """Look for tensors that are touched though the plan does not say so, or outside of all sites.

    A tensor that is tied to one at a site lies at the site too.
    """
    patient = case.patient()
    before = snapshot(patient)
    with case.apply(patient) as done:
        touched = set(_tensors(differences(before, snapshot(patient))))
    untold = touched - set(_told(done.plan))
    outside = touched - set(_reached(done.plan))
    wrong = [f"{name} is touched, and the plan does not say so" for name in sorted(untold)]
    wrong += [f"{name} lies outside of all sites" for name in sorted(outside)]
    return verdict(wrong, f"{len(touched)} tensors touched")


def _tensors(facts: list[str]) -> Iterator[str]:
    """Give the tensors that facts are of."""
    for fact in facts:
        yield from (fact.removeprefix(kind) for kind in _OF_TENSORS if fact.startswith(kind))


def _told(found: Plan) -> Iterator[str]:
    """Give the names of the tensors that a plan says are added, removed, changed or flagged."""
    changed = [row for pair in (*found.changed, *found.flags) for row in pair]
    for row in (*found.added, *found.removed, *changed):
        yield from (row.name, *row.aliases)


def _reached(found: Plan) -> Iterator[str]:
    """Give the names of the tensors at and below the sites of a plan, and of their ties."""
    places = {place for planned in found.steps for place in _places(planned)}
    places |= {place for planned in found.steps for place in _siblings(planned, found)}
    for row in (*found.before, *found.after):
        names = (row.name, *row.aliases)
        if any(is_below(name, place) for name in names for place in places):
            yield from names


def _places(planned: PlannedStep) -> Iterator[str]:
    """Give where a step may touch: its sites; tensors beside a parameter that is a site; what it
    places beside the model; the whole stack of a layer that is a site, where it builds that anew.
    """
    placed = {edit.path: edit for edit in planned.edits if isinstance(edit, Place)}
    yield from (path for path, edit in placed.items() if edit.beside)
    added = [edit for edit in planned.edits if isinstance(edit, Extend)]
    for site in planned.sites:
        yield from (*site.paths, site.parameter or site.path)
        if site.is_parameter:
            holder = site.path.rpartition(".")[0]
            yield from (f"{e.path}.{leaf}" for e in added if e.path == holder for leaf in e.tensors)
        if site.layer is not None and site.layer.container in placed:
            yield site.layer.container


def _siblings(planned: PlannedStep, found: Plan) -> Iterator[str]:
    """Give the modules that a step places where none was, beside its sites in their parents."""
    known = [name for row in found.before for name in (row.name, *row.aliases)]
    parents = {site.path.rpartition(".")[0] for site in planned.sites}
    placed = [edit.path for edit in planned.edits if isinstance(edit, Place)]
    near = (path for path in placed if path.rpartition(".")[0] in parents)
    return (path for path in near if not any(is_below(name, path) for name in known))


def order_does_not_matter(case: Case) -> Check:
    """Do independent surgeries in the other order, and compare the two patients bit for bit.

    Surgeries are independent where they touch nothing in common, and none selects what another
    adds.
    """
    if len(case.steps) < 2:
        return skipped("", "one step has no order")
    one = _result(case)
    if shared := _shared(case):
        return skipped("", f"the steps are not independent: two of them touch {shared}")
    if not one.answers:
        return skipped("", "the steps are not independent: the model no longer runs on its inputs")
    try:
        other = _result(replace(case, steps=case.steps[::-1]))
    except CannotError as error:
        return failed("", f"in the other order: {error}")
    if chosen := _chosen(one, other):
        return skipped("", f"the steps are not independent: one selects {chosen} of another")
    wrong = differences(one.facts, other.facts)
    wrong += [] if one.answers == other.answers else ["the outputs"]
    return verdict(wrong, f"{len(case.steps)} independent steps")


@dataclass(frozen=True)
class _Result:
    """What came of some steps in one order.

    Attributes:
        facts: the patient afterwards.
        answers: digests of its outputs.
        sites: paths of all sites of all steps.
        known: names of the tensors that were there before.
    """

    facts: Snapshot
    answers: list[str]
    sites: frozenset[str]
    known: frozenset[str]


def _result(case: Case) -> _Result:
    with case.applied() as done:
        sites = {site.path for planned in done.plan.steps for site in planned.sites}
        known = {name for row in done.plan.before for name in (row.name, *row.aliases)}
        facts = snapshot(done.patient, identities=False)
        return _Result(facts, answers(done.patient), frozenset(sites), frozenset(known))


def _chosen(one: _Result, other: _Result) -> str:
    """Name a site that is one in a single order, because another step made it."""
    odd = one.sites ^ other.sites
    made = (path for path in odd if not any(is_below(name, path) for name in one.known))
    return min(made, default="")


def touched_by(found: Plan) -> Iterator[str]:
    """Give the places, the tensors and the keys of the configuration that a plan touches."""
    yield from (site.path for planned in found.steps for site in planned.sites)
    yield from _told(found)
    yield from (f"config.{edit.name}" for edit in found.edits_of(SetConfig))


def _shared(case: Case) -> str:
    """Name something that two steps touch, each done alone; an empty text where nothing is.

    One that cannot be done alone needs what an earlier one makes.
    """
    seen: set[str] = set()
    for step in case.steps:
        try:
            with case.applied([step]) as done:
                own = set(touched_by(done.plan))
        except CannotError:
            return f"what {step.surgery.name} needs"
        both = [n for n in own if any(is_below(n, o) or is_below(o, n) for o in seen)]
        if both:
            return min(both) or "the whole model"
        seen |= own
    return ""
