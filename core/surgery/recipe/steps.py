"""Make the steps of an operation from what a recipe, or a Python caller, wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from surgery.anatomy.selector import EVERYWHERE, Selector
from surgery.errors import PluginError, Problems, did_you_mean
from surgery.hooks.registry import Registry
from surgery.operate.step import Step
from surgery.operate.surgery import Surgery
from surgery.recipe.messages import Problem, checked
from surgery.recipe.nodes import Location, Node, in_order, mistake, node_of, shown, text_of
from surgery.recipe.schema import StepForm

StepLike: TypeAlias = Step | Surgery | tuple[Surgery, Selector] | Mapping[str, Any]
"""What ``steps_from`` takes: a dict as in a recipe, or surgeries made in Python."""


def steps_from(
    entries: Sequence[StepLike], registry: Registry, where: str = "steps"
) -> tuple[Step, ...]:
    """Make steps from a Python list, checked as a recipe is.

    Args:
        entries: dicts with the keys of ``surgeries:``, surgeries, or pairs of a surgery and a
            selector; a surgery alone operates everywhere.
        registry: what plugins offer.
        where: how errors name the list.

    Raises:
        Problems: all mistakes of the list.
    """
    steps: list[Step] = []
    problems: list[Problem] = []
    for number, entry in enumerate(entries):
        made, found = _step_from(entry, registry, (where, number))
        steps += made
        problems += found
    if problems:
        raise Problems(where, in_order(problems))
    return tuple(steps)


def read_step(node: Node, registry: Registry, at: Location) -> tuple[list[Step], list[Problem]]:
    """Read one entry of ``surgeries:``.

    Args:
        node: the entry.
        registry: what plugins offer.
        at: where the entry stands, such as ``("surgeries", 1)``.

    Returns:
        The step, or nothing where there are mistakes; and all mistakes with their places.
    """
    form, problems = checked(StepForm, _without_options(node), at)
    surgery, found = _surgery(node, registry, at)
    problems += [*found, *_unknown_roles(node.child("at"), registry, (*at, "at"))]
    if form is None or surgery is None or problems:
        return [], problems
    place = f"{node.mark}: " if node.mark.line else ""
    step = Step(
        surgery,
        form.selector,
        expect=form.expect,
        overlap=form.overlap,
        where=place + text_of(at),
        **_owners(surgery, registry),
    )
    return [step], []


def offered(
    node: Node, registry: Registry, kind: str, at: Location
) -> tuple[type[Any] | None, list[Problem]]:
    """Look up what a text names among the offers of one kind.

    Args:
        node: the text.
        registry: what plugins offer.
        kind: as in ``Registry.offer``.
        at: where the text stands.
    """
    if not isinstance(node.value, str):
        return None, []
    try:
        return registry.offer(kind, node.value).value, []
    except PluginError as error:
        found = repr(node.value) if node.value not in registry.names(kind) else error.found
        return None, [(node.mark, mistake(node.mark, at, error.wanted, found, error.instead))]


def _step_from(
    entry: StepLike, registry: Registry, at: Location
) -> tuple[list[Step], list[Problem]]:
    if isinstance(entry, Step):
        return [entry], []
    if isinstance(entry, Mapping):
        return read_step(node_of(entry), registry, at)
    surgery, selector = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, None)
    selector = selector or Selector(path=(EVERYWHERE,))
    if not isinstance(surgery, Surgery) or not isinstance(selector, Selector):
        node = node_of(None)
        wanted = "a dict as in a recipe, a surgery, or a surgery and a selector"
        return [], [(node.mark, mistake(node.mark, at, wanted, shown(entry)))]
    return [Step(surgery, selector, where=text_of(at), **_owners(surgery, registry))], []


def _owners(surgery: Surgery, registry: Registry) -> dict[str, Any]:
    """Give the plugin of a surgery, and those of what its options name."""
    owner = registry.owner("surgery", type(surgery))
    named = registry.owners_of_named(surgery.model_dump(mode="json"))
    return {"plugin": owner, "needs": tuple(one for one in named if one[0] != owner[0])}


def _without_options(node: Node) -> Node:
    """Leave the options out, which the surgery itself checks."""
    options = node.child("with")
    if options is None or not isinstance(options.value, Mapping):
        return node
    return replace(node, value={**node.children, "with": replace(options, value={})})


def _surgery(node: Node, registry: Registry, at: Location) -> tuple[Surgery | None, list[Problem]]:
    use = node.child("use")
    if use is None:
        return None, []
    cls, problems = offered(use, registry, "surgery", (*at, "use"))
    options = node.child("with") or Node({}, node.mark, node.key)
    if cls is None or not isinstance(options.value, Mapping):
        return None, problems
    return checked(cls, options, (*at, "with"), registry)


def _unknown_roles(node: Node | None, registry: Registry, at: Location) -> list[Problem]:
    """Find roles that neither the core nor any family knows, below ``exclude`` too."""
    if node is None:
        return []
    known = registry.roles()
    problems: list[Problem] = []
    for role, place in _texts(node.child("role"), (*at, "role")):
        if isinstance(role.value, str) and role.value not in known:
            hint = did_you_mean(role.value, known)
            error = mistake(role.mark, place, "a role", repr(role.value), hint)
            problems.append((role.mark, error))
    for part, place in _texts(node.child("exclude"), (*at, "exclude")):
        problems += _unknown_roles(part, registry, place)
    return problems


def _texts(node: Node | None, at: Location) -> list[tuple[Node, Location]]:
    if node is None:
        return []
    if isinstance(node.value, tuple):
        return [(item, (*at, number)) for number, item in enumerate(node.items)]
    return [(node, at)]
