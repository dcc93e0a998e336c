"""Model surgery as code: plan, apply and prove changes to PyTorch models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.anatomy.selector import Selector as Selector
    from surgery.anatomy.site import Anatomy as Anatomy
    from surgery.anatomy.site import Site as Site
    from surgery.anatomy.walk import walk as walk
    from surgery.errors import SurgeryError as SurgeryError
    from surgery.flow.load import load as load
    from surgery.flow.memory import Applied as Applied
    from surgery.flow.memory import apply as apply
    from surgery.flow.memory import plan as plan
    from surgery.hooks.specs import hookimpl as hookimpl
    from surgery.operate.patient import Patient as Patient
    from surgery.operate.surgery import Surgery as Surgery
    from surgery.training.run import train as train

_PLACES = {
    "Anatomy": "surgery.anatomy.site",
    "Applied": "surgery.flow.memory",
    "Patient": "surgery.operate.patient",
    "Selector": "surgery.anatomy.selector",
    "Site": "surgery.anatomy.site",
    "Surgery": "surgery.operate.surgery",
    "SurgeryError": "surgery.errors",
    "apply": "surgery.flow.memory",
    "hookimpl": "surgery.hooks.specs",
    "load": "surgery.flow.load",
    "plan": "surgery.flow.memory",
    "train": "surgery.training.run",
    "walk": "surgery.anatomy.walk",
}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that ``import surgery`` costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module 'surgery' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
