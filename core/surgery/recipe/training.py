"""Read ``train:`` of a recipe: its settings, and the objective, data and engine it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.hooks.registry import Registry
from surgery.operate.data import Data
from surgery.operate.engine import Engine
from surgery.operate.objective import Objective
from surgery.recipe.chosen import chosen
from surgery.recipe.messages import Problem, checked
from surgery.recipe.nodes import Location, Node
from surgery.recipe.train_form import TrainForm


@dataclass(frozen=True)
class Training:
    """How a patient is trained after its surgeries.

    Attributes:
        form: the settings.
        objective: what turns samples into a loss.
        data: samples to train on.
        evaluation: samples to judge by, or None.
        engine: what runs the steps, or None for the loop that comes with surgery.
    """

    form: TrainForm
    objective: Objective
    data: tuple[Data, ...]
    evaluation: Data | None = None
    engine: Engine | None = None

    def to_json(self) -> dict[str, Any]:
        """Give ``train:`` as plain data, all defaults filled in."""
        data = self.form.model_dump(mode="json", exclude_none=True)
        data["objective"] = _named(self.objective)
        data["data"] = [_named(one) for one in self.data]
        if self.evaluation is not None:
            data["evaluation"] = _named(self.evaluation)
        if self.engine is not None:
            data["engine"] = _named(self.engine)
        return data


def _named(one: Objective | Data | Engine) -> dict[str, Any]:
    return {"use": one.name, **one.model_dump(mode="json", by_alias=True)}


def read_training(
    node: Node | None, registry: Registry, folder: Path
) -> tuple[Training | None, list[Problem]]:
    """Read ``train:``.

    Args:
        node: its tree, or None where the recipe has none.
        registry: what plugins offer.
        folder: what relative paths refer to.

    Returns:
        What it says, or None where there is nothing or are mistakes; and all mistakes.
    """
    if node is None or not isinstance(node.value, Mapping):
        return None, []
    form, problems = checked(TrainForm, node, ("train",))
    found: dict[str, Any] = {}
    for place, one, kind in _choices(node):
        value, wrong = chosen(one, "use", kind, ("train", *place), registry, folder)
        found.setdefault(str(place[0]), []).append(value)
        problems += _new(wrong, problems)
    if form is None or problems:
        return None, problems
    (evaluation,), (engine,) = (found.get(key, [None]) for key in ("evaluation", "engine"))
    return Training(form, found["objective"][0], tuple(found["data"]), evaluation, engine), []


_KINDS = {"objective": "objective", "data": "data", "evaluation": "data", "engine": "engine"}
"""For each choice below ``train`` the kind of offers that it is made among."""


def _choices(node: Node) -> list[tuple[Location, Node, str]]:
    """Give what names an offer of a plugin: its place below ``train``, and its kind."""
    found: list[tuple[Location, Node, str]] = []
    for key, kind in _KINDS.items():
        one = node.child(key)
        if one is None:
            continue
        if one.items:
            found += [((key, number), item, kind) for number, item in enumerate(one.items)]
        else:
            found.append(((key,), one, kind))
    return found


def _new(problems: list[Problem], known: list[Problem]) -> list[Problem]:
    """Leave out mistakes of a place that is known to be wrong."""
    places = {mark for mark, _ in known}
    return [one for one in problems if one[0] not in places]
