"""A companion: a step that is independent of another, for the law on order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

from surgery.anatomy.selector import Selector
from surgery.anatomy.site import Site
from surgery.operate.edits import Edit, SetTrainable
from surgery.operate.patient import Patient
from surgery.operate.step import Step
from surgery.operate.surgery import Surgery
from surgery.testing.case import Case
from surgery.testing.difference import touched_by
from surgery.testing.kept import is_below


class Still(Surgery):
    """Stop gradients to the selected modules' own parameters."""

    name: ClassVar[str] = "still"
    identity_at_init: ClassVar[bool] = True

    def refuse(self, site: Site) -> str | None:
        """Refuse nothing."""
        return None

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Give an edit for each parameter that a module holds itself."""
        for site in sites:
            module = patient.model.get_submodule(site.path)
            for leaf, _ in module.named_parameters(recurse=False):
                yield SetTrainable(f"{site.path}.{leaf}", trainable=False)


def with_companion(case: Case) -> Case:
    """Add a step at a module that the case's steps leave alone; none where they leave none alone.

    Raises:
        CannotError: the steps are refused.
    """
    with case.applied() as done:
        touched = {place for place in touched_by(done.plan) if place}
        model = done.patient.model
    for path, module in model.named_modules():
        names = [f"{path}.{leaf}" for leaf, _ in module.named_parameters(recurse=False)]
        near = any(is_below(path, one) or is_below(one, path) for one in touched)
        if path and names and not near:
            at = Selector(path=(path,))
            return replace(case, steps=(*case.steps, Step(Still(), at, where="the companion")))
    return case
