"""Find what feeds an attached module, and let the module run on it, on meta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError
from surgery.operate.dtypes import name_of
from surgery_plugins.surgeries.attach.fresh import fresh_module
from surgery_plugins.surgeries.attach.observe import Observed, fed_by, observe

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.operate.patient import Patient
    from surgery_plugins.surgeries.attach.surgery import Attach


def settle(surgery: Attach, path: str, patient: Patient) -> dict[str, Any]:
    """Give the options of an attach that its recipe leaves open.

    Args:
        surgery: the surgery as the recipe has it.
        path: the module whose output feeds the new one.
        patient: what is operated on.

    Raises:
        RefusedError: what feeds the module is unknown, or the module does not take it.
    """
    observed = observe(patient, path)
    if observed is None:
        return _unobserved(surgery)
    _check_answer(surgery, observed)
    tensor = fed_by(observed, path, surgery.output)
    features = _features(surgery, tensor)
    dtype = surgery.dtype or name_of(tensor.dtype)
    named = f", output {surgery.output}" if surgery.output else ""
    found = {
        "fed by": f"{path or 'the model'}{named}: {list(tensor.shape)} {name_of(tensor.dtype)}",
        "makes": str(list(_made(surgery, features, dtype, tensor))),
        "given": _given(observed.answer, surgery.called),
    }
    return {"features": features, "dtype": dtype, "found": found}


def _unobserved(surgery: Attach) -> dict[str, Any]:
    for option in ("features", "dtype"):
        if getattr(surgery, option) is None:
            raise RefusedError(
                f"attach.{option}", "a value, since no forward of the model could be run",
                "none", f"write `{option}:`, or give inputs with which a forward runs",
            )  # fmt: skip
    return {"found": {"fed by": "what the recipe says: no forward of the model could be run"}}


def _features(surgery: Attach, tensor: Tensor) -> int:
    axis, shape = surgery.module.axis, list(tensor.shape)
    if not tensor.is_floating_point() or tensor.dim() < 2:
        found = f"{name_of(tensor.dtype)} {shape}"
        raise RefusedError("attach", "an output of floating numbers, batch first", found)
    size = int(tensor.shape[axis])
    if surgery.features not in (None, size):
        raise RefusedError(
            "attach.features", f"{size}, of the output {shape}", str(surgery.features),
            "leave it out",
        )  # fmt: skip
    return size


def _made(surgery: Attach, features: int, dtype: str, tensor: Tensor) -> tuple[int, ...]:
    """Run the module on meta, and give the shape of what it makes."""
    import torch

    from surgery.operate.dtypes import dtype_of

    module, _ = fresh_module(surgery.module, features, dtype, False)
    try:
        with torch.no_grad():
            made = module(tensor.to("meta", dtype_of(dtype)))
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise RefusedError(
            f"attach.module: {surgery.module.name}",
            f"a module that takes {list(tensor.shape)}", line,
            "choose another output, layout or module",
        ) from None  # fmt: skip
    return tuple(made.shape) if isinstance(made, torch.Tensor) else ()


def _check_answer(surgery: Attach, observed: Observed) -> None:
    if isinstance(observed.answer, Mapping) and surgery.called in observed.answer:
        raise RefusedError(
            f"attach.called: {surgery.called}", "a name that the model's output does not have",
            "one that it has", "choose another",
        )  # fmt: skip


def _given(answer: Any, name: str) -> str:
    if isinstance(answer, Mapping):
        return f"in the model's output as {name}, and by attached(model)"
    return "by attached(model); the model's output has no names"
