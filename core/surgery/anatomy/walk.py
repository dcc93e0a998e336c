"""Walk a model: read what every weight does off the dataflow of one forward on meta."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import nn

from surgery.anatomy import handlers  # noqa: F401  (registers what the tracer handles)
from surgery.anatomy.assemble import assemble
from surgery.anatomy.inputs import guesses
from surgery.anatomy.merge import with_hints, with_names
from surgery.anatomy.observe import observe
from surgery.anatomy.observed import Observed
from surgery.anatomy.site import Anatomy
from surgery.anatomy.stand_in import on_meta
from surgery.anatomy.structure import structure, trainable_of


class Hints(Protocol):
    """What the walker needs of a family."""

    name: str

    def matches(self, model: nn.Module) -> bool:
        """Tell whether a model is of this family."""

    def hints(self, model: nn.Module) -> Mapping[str, frozenset[str]]:
        """Give roles by module path or parameter name."""


def walk(
    model: nn.Module,
    inputs: Mapping[str, Any] | None = None,
    *,
    families: Iterable[Any] = (),
    trace: bool = True,
) -> Anatomy:
    """Read the anatomy of a model; the model is left exactly as it was.

    Args:
        model: any module, on meta or with weights.
        inputs: keyword arguments for one forward; guessed from the signature of ``forward`` and
            the model's ``config`` if None.
        families: what plugins know of kinds of models.
        trace: False for the bare structure, without roles.

    Returns:
        The sites; ``notes`` say what could not be read and what was fallen back to.
    """
    sites = structure(model)
    if not trace:
        return Anatomy(tuple(sites))
    with on_meta(model):
        observed = _observe_all(model, inputs)
    anatomy = assemble(model, sites, observed)
    known: Sequence[Hints] = [family for family in families if family.matches(model)]
    for family in known:
        anatomy = with_hints(anatomy, family.name, family.hints(model))
    anatomy = replace(anatomy, trainable=trainable_of(model))
    return anatomy if observed.complete else with_names(anatomy)


def _observe_all(model: nn.Module, inputs: Mapping[str, Any] | None) -> Observed:
    """Observe the whole model; parts that no forward reached are observed one by one."""
    tried = [dict(inputs)] if inputs is not None else guesses(model)
    found, failure = Observed(complete=False), "no inputs can be guessed for its forward"
    for guess in tried:
        seen = observe(model, guess)
        if not seen.failure:
            found = seen
            break
        failure = seen.failure
    notes = () if found.complete else (f"no forward of the whole model was observed ({failure})",)
    rest = _observe_parts(model, found)
    joined = Observed.joined([replace(found, notes=(*notes, *found.notes)), *rest])
    return replace(joined, complete=found.complete and not rest)


def _observe_parts(model: nn.Module, found: Observed) -> list[Observed]:
    """Observe the largest modules that were not reached and for which inputs can be guessed."""
    reached = {path for name in found.readings for path in _above(name)}
    parts, waiting = [], list(model.named_children())
    while waiting:
        path, module = waiting.pop(0)
        seen = None if path in reached else _first_that_runs(module)
        if seen is not None:
            parts.append(seen.below(path))
        else:
            waiting += [(f"{path}.{name}", child) for name, child in module.named_children()]
    return parts


def _first_that_runs(module: nn.Module) -> Observed | None:
    runs = (seen for guess in guesses(module) if not (seen := observe(module, guess)).failure)
    return next((seen for seen in runs if seen.readings), None)


def _above(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name
