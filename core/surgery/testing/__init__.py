"""Hold surgeries against the laws, on a zoo of tiny patients: for the tests of plugins."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.testing.case import Case as Case
    from surgery.testing.case import case_of as case_of
    from surgery.testing.draw import compositions as compositions
    from surgery.testing.laws import LAWS as LAWS
    from surgery.testing.laws import held as held
    from surgery.testing.laws import hold as hold
    from surgery.testing.snapshot import differences as differences
    from surgery.testing.snapshot import snapshot as snapshot
    from surgery.testing.source import ZooSource as ZooSource
    from surgery.testing.source import save as save
    from surgery.testing.source import with_zoo as with_zoo
    from surgery.testing.source import zoo_sources as zoo_sources
    from surgery.testing.trial import Trial as Trial
    from surgery.testing.trial import judged as judged
    from surgery.testing.trial import surgeries_of as surgeries_of
    from surgery.testing.trial import trials as trials
    from surgery.testing.zoo import ZOO as ZOO
    from surgery.testing.zoo import patient as patient

_PLACES = {
    "Case": "case", "case_of": "case", "compositions": "draw", "LAWS": "laws", "held": "laws",
    "hold": "laws", "differences": "snapshot", "snapshot": "snapshot", "ZooSource": "source",
    "save": "source", "with_zoo": "source", "ZOO": "zoo", "patient": "zoo",
    "zoo_sources": "source", "Trial": "trial", "judged": "trial", "surgeries_of": "trial",
    "trials": "trial",
}  # fmt: skip
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that importing the package costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module 'surgery.testing' has no attribute {name!r}")
    return getattr(import_module(f"surgery.testing.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
