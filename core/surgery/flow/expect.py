"""Say what a trial is measured by: what its surgeries promise, and what must learn."""

from __future__ import annotations

from collections.abc import Iterator

from surgery.flow.judge import Expected
from surgery.flow.trials import Observation
from surgery.operate.edits import Extend, Place
from surgery.operate.operation import Operation


def expected_of(operation: Operation, base: Observation | None, rounding: float) -> Expected:
    """Give what a patient is to do after an operation whose tensors are filled.

    Args:
        operation: what was done.
        base: what the patient did before.
        rounding: by how much outputs may differ, as a share of their length.
    """
    changing = [s.step.surgery for s in operation.steps if s.step.surgery.at_init == "changed"]
    why = f"{changing[0].name} does not promise it" if changing else ""
    plan = operation.plan
    learning = [row.name for row in plan.added if row.trainable]
    learning += [row.name for _, row in plan.flags if row.trainable]
    held = frozenset(_may_be_zero(operation))
    return Expected(base, why, rounding, frozenset(learning), held)


def _may_be_zero(operation: Operation) -> Iterator[str]:
    """Give the tensors beside which one begins at zero, so that theirs is no gradient yet.

    That is how an adapter is the identity at init: of ``b(a(x))`` with ``b`` zero, the gradient
    of ``a`` is zero until ``b`` has moved (Hu et al. 2021, LoRA, section 4.1).
    """
    slots = operation.slots
    zero = {n for n, s in slots.items() if s.values is not None and not s.values.count_nonzero()}
    edits = [edit for planned in operation.steps for edit in planned.edits]
    for edit in edits:
        if isinstance(edit, Extend):
            together = {f"{edit.path}.{leaf}" for leaf in edit.tensors}
        elif isinstance(edit, Place):
            together = {name for name in slots if name.startswith(f"{edit.path}.")}
        else:
            continue
        if together & zero:
            yield from together - zero
