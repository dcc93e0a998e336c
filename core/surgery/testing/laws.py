"""The laws that every surgery keeps, by name, and how a case is held against them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from surgery.checks.check import Check, failed, skipped
from surgery.checks.watch import told
from surgery.testing.case import CannotError, Case
from surgery.testing.difference import (
    nothing_else_is_touched,
    order_does_not_matter,
    plan_is_exact,
)
from surgery.testing.files import (
    live_equals_streaming,
    live_equals_streaming_whole,
    replay_equals_original,
)
from surgery.testing.kept import (
    dtype_and_device_are_kept,
    identity_at_init,
    refusal_leaves_no_trace,
    ties_survive,
    undo_is_exact,
)
from surgery.testing.refusing import refuses_cleanly

Law: TypeAlias = Callable[[Case], Check]
"""Hold a case against one law: passed, failed, or skipped where the law says nothing of it."""

LAWS: Mapping[str, Law] = {
    "plan equals apply": plan_is_exact,
    "identity at init": identity_at_init,
    "undo gives exact bits": undo_is_exact,
    "refuses cleanly": refuses_cleanly,
    "refusal leaves no trace": refusal_leaves_no_trace,
    "replay equals original": replay_equals_original,
    "live equals streaming": live_equals_streaming,
    "live equals streaming, whole": live_equals_streaming_whole,
    "order of independent surgeries does not matter": order_does_not_matter,
    "ties survive": ties_survive,
    "dtype and device kept": dtype_and_device_are_kept,
    "nothing touched outside its sites": nothing_else_is_touched,
}
"""The laws, by name."""

NEEDS_VALUES = frozenset(
    {
        "identity at init", "replay equals original", "live equals streaming",
        "live equals streaming, whole", "order of independent surgeries does not matter",
    }
)  # fmt: skip
"""The laws that say nothing of a patient on meta."""


def held(name: str, case: Case) -> Check:
    """Hold a case against a law; where its surgeries are refused, the law is skipped.

    Whatever else is raised breaks the law.

    Args:
        name: of the law.
        case: the surgeries and their patient.
    """
    if case.device == "meta" and name in NEEDS_VALUES:
        return skipped(name, "the patient is on meta, it has no values")
    try:
        return replace(LAWS[name](case), name=name)
    except CannotError as error:
        return skipped(name, f"refused: {error}")
    except Exception as error:
        return failed(name, told(error))


def hold(case: Case) -> Iterator[Check]:
    """Hold a case against every law."""
    return (held(name, case) for name in LAWS)
