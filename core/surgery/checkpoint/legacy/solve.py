"""Find the prefix that lets most names of a file meet the names of a structure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from surgery.checkpoint.strict import show
from surgery.errors import PatientError

Parts: TypeAlias = tuple[str, ...]
Rests: TypeAlias = dict[str, str]

MOST_WORK = 3_000_000
"""Names that are compared at most."""


@dataclass(frozen=True)
class Prefix:
    """What names of a file begin with, and what the structure has in its place.

    Attributes:
        old: the beginning in the file, without a dot at its end; may be empty.
        new: the same in the structure.
        matched: how many pairs of name and shape meet.
    """

    old: str
    new: str
    matched: int = 0

    def apply(self, name: str) -> str | None:
        """Give the name in the structure, or None where the name does not begin so."""
        if self.old and not name.startswith(f"{self.old}."):
            return None
        rest = name.removeprefix(f"{self.old}.") if self.old else name
        return f"{self.new}.{rest}" if self.new else rest


def solve(
    held: Mapping[str, Hashable], wanted: Mapping[str, Hashable], required: int | None = None
) -> list[Prefix]:
    """Give the prefixes that let the most (name, shape) pairs meet; several are a tie.

    All pairs of prefixes are looked at that could match half of the smaller side at least; at
    most two disjoint prefixes of one depth have half of the names, so they are few. Of two
    prefixes with the same pairs the first counts.

    Args:
        held: shape (or what stands for it) by name, in the file.
        wanted: the same, in the structure.
        required: how many names of the structure count for the half; all by default.

    Returns:
        None at all where no prefix matches so many; one where it is certain; else those that tie.
    """
    side = min(len(held), len(wanted) if required is None else required)
    ours, theirs = _under(held), _under(wanted)
    best = _affordable(ours, theirs, max(1, -(-side // 2)))
    found: dict[frozenset[tuple[str, str]], Prefix] = {}
    for old, names in ours:
        for new, others in theirs:
            if min(len(names), len(others)) < best:
                break
            if old and new and old[-1] == new[-1]:
                continue  # the same without that last part matches no less
            pairs = _pairs(names, others, held, wanted)
            if len(pairs) > best:
                best, found = len(pairs), {}
            if len(pairs) == best:
                found.setdefault(pairs, Prefix(".".join(old), ".".join(new), best))
    return list(found.values())


def demand_one(found: list[Prefix], where: str) -> Prefix:
    """Give the only prefix.

    Raises:
        PatientError: there is none, or there are several, so that the user must say which.
    """
    state = "state it with --prefix OLD=NEW"
    if not found:
        wanted = "names and shapes of which half meet the structure"
        raise PatientError(where, wanted, "fewer under every prefix", state)
    if len(found) > 1:
        listed = ", ".join(f"{_shown(one)} ({one.matched} tensors)" for one in found[:6])
        raise PatientError(where, "one prefix that fits best", f"{len(found)}: {listed}", state)
    return found[0]


def _shown(prefix: Prefix) -> str:
    return show(f"{prefix.old}={prefix.new}")


def _under(names: Iterable[str]) -> list[tuple[Parts, Rests]]:
    """Give every beginning of names, with the names that have it by their rest, commonest first."""
    found: dict[Parts, Rests] = {}
    for name in names:
        parts = tuple(name.split("."))
        for depth in range(len(parts)):
            found.setdefault(parts[:depth], {})[".".join(parts[depth:])] = name
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))


def _affordable(
    ours: list[tuple[Parts, Rests]], theirs: list[tuple[Parts, Rests]], least: int
) -> int:
    """Raise the least number of pairs until looking at all prefixes that could reach it is quick.

    What is found above it is still the best, and still the only one if it is one.
    """
    sizes = [Counter(len(names) for _, names in side) for side in (ours, theirs)]
    while True:
        left, right = ([(n, c) for n, c in side.items() if n >= least] for side in sizes)
        if sum(min(n, m) * c * d for n, c in left for m, d in right) <= MOST_WORK:
            return least
        least *= 2


def _pairs(
    names: Rests, others: Rests, held: Mapping[str, Hashable], wanted: Mapping[str, Hashable]
) -> frozenset[tuple[str, str]]:
    """Give the names of file and structure that meet, shapes included."""
    rests = names if len(names) < len(others) else others
    return frozenset(
        (names[rest], others[rest])
        for rest in rests
        if rest in names and rest in others and held[names[rest]] == wanted[others[rest]]
    )
