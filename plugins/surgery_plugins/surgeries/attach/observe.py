"""What a module gives in one forward of its model, on meta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError, did_you_mean
from surgery_plugins.surgeries.attach.outputs import picked, snapshot, tensors_by_output

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.operate.patient import Patient


@dataclass(frozen=True)
class Observed:
    """What one forward showed.

    Attributes:
        outputs: what the module gave each time that it ran.
        answer: what the model gave.
    """

    outputs: tuple[Any, ...]
    answer: Any


def observe(patient: Patient, path: str) -> Observed | None:
    """Run one forward on meta; the patient is not touched.

    Args:
        patient: what is operated on.
        path: the module.

    Returns:
        What was seen, or None where no inputs are known with which a forward runs.
    """
    from surgery.anatomy import handlers  # noqa: F401  (registers what the tracer handles)
    from surgery.anatomy.inputs import guesses
    from surgery.anatomy.observe import observe as traced
    from surgery.anatomy.stand_in import twin

    model = twin(patient.model).eval()
    seen: list[Any] = []
    answers: list[Any] = []
    module = dict(model.named_modules(remove_duplicate=False))[path]
    module.register_forward_hook(lambda _, args, out: seen.append(snapshot(out)))
    model.register_forward_hook(lambda _, args, out: answers.append(out))
    for inputs in [patient.inputs] if patient.inputs is not None else guesses(model):
        seen.clear()
        if not traced(model, inputs).failure:
            return Observed(tuple(seen), answers[-1])
    return None


def fed_by(observed: Observed, path: str, output: str | None) -> Tensor:
    """Give the one tensor, on meta, that a module's named output is.

    Raises:
        RefusedError: the module does not run once, or it has no such output.
    """
    times = len(observed.outputs)
    if times != 1:
        found = "none" if times == 0 else f"{times} times"
        raise RefusedError(
            f"attach: {path or 'the model'}", "a module that runs once in a forward", found,
            "select the module above it, or a part of it, that does",
        )  # fmt: skip
    try:
        return picked(observed.outputs[0], output)
    except (LookupError, TypeError):
        raise _no_output(observed.outputs[0], path, output) from None


def _no_output(value: Any, path: str, output: str | None) -> RefusedError:
    known = {name: tuple(tensor.shape) for name, tensor in tensors_by_output(value)}
    shown = ", ".join(f"{name or 'one tensor'} {list(shape)}" for name, shape in known.items())
    wanted = "the name of one of its outputs" if known.keys() != {""} else "no name"
    hint = did_you_mean(output, known) if output is not None and known.keys() != {""} else ""
    return RefusedError(
        f"attach.output: {output}", f"{wanted}; {path or 'the model'} gives {shown or 'no tensor'}",
        "none" if output is None else repr(output), hint,
    )  # fmt: skip
