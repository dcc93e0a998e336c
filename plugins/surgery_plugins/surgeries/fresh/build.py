"""Build a model anew from a configuration: parameters on meta, buffers with their values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from surgery.errors import RefusedError
from surgery.operate.chance import seeded

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.patient import Patient


def buildable(patient: Patient) -> bool:
    """Tell whether a patient's class builds itself from the patient's configuration alone."""
    from surgery.anatomy.extended import plain_class

    return patient.config is not None and hasattr(plain_class(patient.model), "_from_config")


def build(patient: Patient, config: Any) -> nn.Module:
    """Build a patient's class from a configuration, which is copied.

    Every value that the class computes from the configuration is there, in float32 where the
    class does not say otherwise; parameters, which would be drawn, are on meta.

    Args:
        patient: what gives the class.
        config: the configuration.

    Raises:
        RefusedError: the class builds itself from no configuration.
        PatientError: the class refuses the configuration's values.
    """
    from surgery.anatomy.extended import plain_class
    from surgery_plugins.sources.transformers import quietly

    kind: Any = plain_class(patient.model)
    if not buildable(patient):
        raise RefusedError(
            kind.__name__,
            "a model of transformers, which can be built anew from its configuration",
            "a model without one" if patient.config is None else "another model",
            "name tensors and sizes themselves; the surgery's options say how",
        )
    with quietly(f"{kind.__name__} of the changed configuration"), _bare():
        made: nn.Module = kind(deepcopy(config)).eval()
        return made


@contextmanager
def _bare() -> Iterator[None]:
    """Let parameters be meta as they are registered, in float32, and draw nothing that counts."""
    import torch
    from torch import nn
    from transformers.initialization import guard_torch_init_functions

    register, dtype = nn.Module.register_parameter, torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    nn.Module.register_parameter = _register  # type: ignore[method-assign, assignment]
    try:
        with seeded(0), guard_torch_init_functions():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
        torch.set_default_dtype(dtype)


def _register(module: nn.Module, name: str, parameter: Any) -> None:
    """Register a parameter on meta, marked as one that transformers need not initialise.

    One that is on meta already stays the same object: it is tied.
    """
    from torch import nn

    if parameter is not None and not parameter.is_meta:
        parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        parameter._is_hf_initialized = True
    module.__dict__["_parameters"][name] = parameter
