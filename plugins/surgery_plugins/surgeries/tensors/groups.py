"""Which tensors are read, and under which names the results go."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from surgery.errors import RefusedError, did_you_mean
from surgery_plugins.surgeries.tensors.patterns import filled, matches, natural


@dataclass(frozen=True)
class Group:
    """Tensors that are read together.

    Attributes:
        sources: their names.
        targets: the names of what is made of them; empty where they change in place.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...] = ()


def each(patterns: Sequence[str], known: Collection[str]) -> list[Group]:
    """Give a group for each tensor that one of some patterns matches.

    Raises:
        RefusedError: a pattern matches nothing.
    """
    found = [name for pattern in patterns for name, _ in _matched(pattern, known)]
    return [Group((name,)) for name in dict.fromkeys(found)]


def followed(names: Sequence[str], to: Sequence[str], known: Collection[str]) -> list[Group]:
    """Give a group for each tensor that the first name matches.

    Args:
        names: a pattern, and templates of what is read with each of its matches.
        to: templates of the targets.
        known: the names that there are.

    Raises:
        RefusedError: the pattern matches nothing, or a tensor that a template names is missing.
    """
    groups = []
    for name, captured in _matched(names[0], known):
        others = tuple(filled(template, captured) for template in names[1:])
        for other in others:
            if other not in known:
                raise RefusedError(
                    f"tensors.names: {other}", f"a tensor that goes with {name}",
                    "no such tensor", did_you_mean(other, known),
                )  # fmt: skip
        groups.append(Group((name, *others), tuple(filled(one, captured) for one in to)))
    return groups


def joined(groups: Iterable[Group]) -> list[Group]:
    """Join groups that have the same targets, in the order of their numbers."""
    table: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        table.setdefault(group.targets, []).append(group)
    return [
        Group(tuple(n for one in sorted(same, key=_key) for n in one.sources), targets)
        for targets, same in table.items()
    ]


def check_targets(groups: Sequence[Group]) -> None:
    """Check that no name is a target twice, or both a target and read by another group.

    Raises:
        RefusedError: one is.
    """
    made: dict[str, Group] = {}
    for group in groups:
        for target in group.targets:
            if target in made:
                both = f"{made[target].sources[0]} and {group.sources[0]}"
                raise RefusedError(
                    f"tensors.to: {target}", "a name for each result", f"one for {both}",
                    "let `to:` hold every capture that tells them apart",
                )  # fmt: skip
            made[target] = group
    for group in groups:
        for source in group.sources:
            if source in made and made[source] is not group:
                raise RefusedError(
                    f"tensors.to: {source}", "a name that nothing else in this step reads",
                    f"one that {', '.join(group.targets)} is made of", "write two steps",
                )  # fmt: skip


def _matched(pattern: str, known: Collection[str]) -> list[tuple[str, dict[str, str]]]:
    found = [(name, dict(captured)) for name, captured in matches(pattern, known)]
    if not found:
        raise RefusedError(
            f"tensors.names: {pattern}", "a pattern that matches a tensor",
            f"no match among {len(known)}", did_you_mean(pattern, known),
        )  # fmt: skip
    return found


def _key(group: Group) -> list[tuple[int, str]]:
    return natural(group.sources[0])
