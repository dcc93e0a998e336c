"""Judge what a patient did in a trial, beside what its base did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from surgery.checks.check import Check, failed, passed, skipped, warned
from surgery.checks.gradients import last_of
from surgery.checks.invariants import identity, is_finite
from surgery.flow.trials import Observation, Trouble
from surgery.operate.family import Violation

Finding: TypeAlias = tuple[Check, Trouble | None]
"""A check, and the trouble that it found."""

PARTS = ("shapes", "finiteness", "contract", "identity", "gradients")
_SHOWN = 5


@dataclass(frozen=True)
class Expected:
    """What a trial is measured by.

    Attributes:
        base: what the patient did before; None for the base itself.
        unpromised: why outputs need not be those of the base, or an empty text.
        rounding: by how much outputs may differ, as a share of their length.
        learning: names of the tensors that the surgeries added or made trainable.
        may_be_zero: names of tensors whose gradient is zero until another one moves.
    """

    base: Observation | None = None
    unpromised: str = ""
    rounding: float = 0.0
    learning: frozenset[str] = frozenset()
    may_be_zero: frozenset[str] = frozenset()


def judge(seen: Observation, expected: Expected) -> tuple[tuple[Check, ...], Trouble | None]:
    """Judge one observation.

    Args:
        seen: what the patient did.
        expected: what it is measured by.

    Returns:
        A check for each of ``PARTS``, those that could not be made as skipped, and the trouble of
        the first that failed.
    """
    findings = [_shapes(seen)]
    if seen.error is None:
        findings.append(_finiteness(seen, expected))
    findings.append(_contracts(seen))
    if seen.error is None:
        findings += [_identity(seen, expected), _gradients(seen, expected)]
    known = {check.name: check for check, _ in findings}
    late = {part: skipped(part, "the forward does not run") for part in PARTS}
    trouble = next((trouble for _, trouble in findings if trouble is not None), None)
    return tuple({**late, **known}.values()), trouble


def _wrong(breaks: str, trouble: Trouble) -> Finding:
    return failed(breaks, f"{trouble.where}: {trouble.what}"), trouble


def _shapes(seen: Observation) -> Finding:
    error = seen.error
    if error is None:
        return passed("shapes", f"{len(seen.outputs)} outputs"), None
    near = nearest(seen.violations, error.where)
    return _wrong("shapes", Trouble("shapes", error.where, error.what, near))


def nearest(violations: Sequence[Violation], path: str) -> Violation | None:
    """Give the broken contract whose place shares most of a module's path; the first of equals."""
    return max(violations, key=lambda one: _shared(one.where, path), default=None)


def _shared(one: str, other: str) -> int:
    pairs = list(zip(one.split("."), other.split("."), strict=False))
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _finiteness(seen: Observation, expected: Expected) -> Finding:
    if all(map(is_finite, seen.outputs)):
        return passed("finiteness", f"{len(seen.outputs)} outputs"), None
    base = expected.base
    sound = base is not None and all(map(is_finite, base.outputs))
    usual = {m.path for m in base.marks if not m.finite} if base is not None and sound else set()
    first = next((m for m in seen.marks if not m.finite and m.path not in usual), seen.marks[-1])
    what = "the first module that gives NaN or infinity"
    near = nearest(seen.violations, first.path)
    return _wrong("finiteness", Trouble("finiteness", first.path, what, near))


def _contracts(seen: Observation) -> Finding:
    if seen.violations:
        first = seen.violations[0]
        more = f" (and {len(seen.violations) - 1} more)" if len(seen.violations) > 1 else ""
        what = f"expected {first.wanted}, got {first.found}{more}"
        return _wrong("contract", Trouble("contract", first.where, what, first))
    if seen.faults:
        return skipped("contract", "; ".join(seen.faults)), None
    if not seen.families:
        return skipped("contract", "no installed family knows this model"), None
    return passed("contract", f"of {', '.join(seen.families)}"), None


def _identity(seen: Observation, expected: Expected) -> Finding:
    why = _incomparable(seen, expected)
    if why or expected.base is None:
        return skipped("identity", why), None
    found = identity(expected.base.outputs, seen.outputs, expected.rounding)
    if found.status == "passed":
        return passed("identity", found.detail), None
    where = _first_change(expected.base, seen, expected.rounding)
    what = f"the first module that answers otherwise than in the base; {found.detail}"
    return _wrong("identity", Trouble("identity", where, what, nearest(seen.violations, where)))


def _incomparable(seen: Observation, expected: Expected) -> str:
    base = expected.base
    if base is None:
        return "this is the base"
    if base.error is not None:
        return "the base does not run"
    if expected.unpromised:
        return expected.unpromised
    same = {n: getattr(v, "shape", v) for n, v in seen.inputs.items()}
    then = {n: getattr(v, "shape", v) for n, v in base.inputs.items()}
    return "" if same == then else "the inputs that fit the model are others now"


def _first_change(base: Observation, seen: Observation, rounding: float) -> str:
    """Give the first module whose answer is another: by its bits, or by more than rounding."""
    before = {(mark.path, mark.call): mark for mark in base.marks}
    for mark in seen.marks:
        old = before.get((mark.path, mark.call))
        if old is None or old.digests == mark.digests:
            continue
        if not abs(mark.length - old.length) <= rounding * old.length or not rounding:
            return mark.path
    return seen.marks[-1].path


def _gradients(seen: Observation, expected: Expected) -> Finding:
    error = seen.backward
    if error is not None:
        return _wrong("gradients", Trouble("gradients", error.where, error.what))
    if not seen.gradients:
        return skipped("gradients", "nothing is trainable"), None
    bad = dict(_without(seen, expected))
    if bad:
        name = last_of(bad, seen.order)
        what = f"{bad[name]}; so have {len(bad) - 1} more" if len(bad) > 1 else bad[name]
        return _wrong("gradients", Trouble("gradients", name, what))
    return _telling(seen), None


def _telling(seen: Observation) -> Check:
    """Pass, and name what gets no gradient though that is no fault of a surgery."""
    silent = [name for name, state in seen.gradients.items() if state == "none"]
    zero = sum(state == "zero" for state in seen.gradients.values())
    detail = f"{len(seen.gradients)} trainable tensors, {zero} with a zero gradient as expected"
    if not silent:
        return passed("gradients", detail)
    named = ", ".join(silent[:_SHOWN])
    return warned("gradients", f"{detail}; {len(silent)} get none in the base either: {named}")


def _without(seen: Observation, expected: Expected) -> Iterator[tuple[str, str]]:
    """Give the tensors that ought to have a gradient and do not, and what they have instead."""
    before = expected.base.gradients if expected.base else {}
    places = {name.rpartition(".")[0] for name in before}
    still = places - {n.rpartition(".")[0] for n, state in before.items() if state == "some"}
    for name, state in seen.gradients.items():
        own, then = name in expected.learning, before.get(name, "none")
        if state == "not finite":
            yield name, "its gradient has NaN or infinity"
        elif state == "none" and (own or then != "none"):
            yield name, "it is trainable and has no gradient: no output depends on it"
        elif state != "zero" or name in expected.may_be_zero:
            continue
        elif then == "some" or (own and name.rpartition(".")[0] not in still):
            yield name, "its gradient is zero, and no tensor beside it is zero"
