"""Components as checks: all of what was declared is there, and nothing is left over."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.checkpoint.legacy.compare import Component, compared
from surgery.checkpoint.legacy.declared import Declared
from surgery.checkpoint.legacy.resolve import Resolved
from surgery.checks.check import FAILED, Check, failed, passed, skipped
from surgery.errors import Problems, ProofError, SurgeryError


def checks_of(components: Sequence[Component]) -> list[Check]:
    """Give a check for each component; one that is skipped where no structure was declared."""
    return [check_of(one) for one in components] or [
        skipped("components", "no structure was declared: give one with --like")
    ]


def components_of(
    resolved: Resolved, wanted: Declared, declared_ones: Sequence[str]
) -> tuple[Component, ...]:
    """Compare, and give what only the file has under its names in the file."""
    held = {name: entry.shape for name, entry in resolved.entries.items()}
    found = compared(held, wanted, declared_ones, resolved.outside)
    for one in found:
        one.unexpected = [
            raw for name in one.unexpected for raw in resolved.sources.get(name, (name,))
        ]
    return tuple(found)


def demand_complete(components: Sequence[Component], where: str, inferred: bool) -> None:
    """Demand all of each declared component, and a place for every tensor of the file.

    Args:
        components: the comparison.
        where: how errors name the file.
        inferred: True where the structure was fitted to the file already.

    Raises:
        Problems: one for each component that is not complete.
    """
    problems: list[SurgeryError] = [
        ProofError(
            f"{where}: {one.name}", "every tensor to match", check.detail, _remedy(one, inferred)
        )
        for one in components
        if (check := check_of(one)).status == FAILED
    ]
    if problems:
        raise Problems(where, problems)


def _remedy(component: Component, inferred: bool) -> str:
    if component.mismatched and inferred:
        return "shapes show products of numbers that are stated: state the right ones with --set"
    if component.mismatched:
        return "declare the structure it was made with, or fit its sizes with --infer"
    if component.unexpected:
        return "declare the structure it was made with, or leave them out with --drop"
    return "declare the components that it holds with --component"


def check_of(component: Component) -> Check:
    """Say whether a component is as it must be."""
    name = f"component {component.name}"
    shapes = {
        n: f"{n} is {list(a)} and not {list(b)}" for n, (a, b) in component.mismatched.items()
    }
    parts = [
        f"{len(component.matched)} matched, {component.share:.1%}",
        _some("missing", component.missing),
        _some("unexpected", component.unexpected),
        _some("mismatched", list(shapes.values())),
    ]
    detail = "; ".join(filter(None, parts))
    if component.complete:
        return passed(name, detail)
    if not component.declared and not (component.unexpected or component.mismatched):
        return skipped(name, f"not declared; {detail}")
    return failed(name, detail)


def _some(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} {what}: {', '.join(names[:5])}{more}" if names else ""
