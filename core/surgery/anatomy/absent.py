"""The errors of selection: each shows what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from surgery.anatomy.selector import Selector
from surgery.anatomy.site import ROLES, Anatomy, Site
from surgery.errors import SelectionError, did_you_mean


def entry(
    anatomy: Anatomy, sites: Sequence[Site], key: str, given: str, where: str
) -> SelectionError:
    """Give the error for one entry that no site has, though others of the list may match."""
    elsewhere = {
        "role": lambda s: s.roles,
        "type": lambda s: s.types,
        "tower": lambda s: (s.tower,) if s.tower else (),
    }.get(key)
    if elsewhere is None:
        names = [name for site in sites for name in site.paths if name]
        return SelectionError(where, f"{key} {given!r} to match", "no site", near(given, names))
    here = Counter(word for site in sites for word in elsewhere(site))
    there = Counter(word for site in anatomy for word in elsewhere(site))
    if given in there:
        found = f"none among the {len(sites)} sites that the other keys leave"
        return SelectionError(where, f"a site with {key} {given!r}", found, counted(here))
    known = set(there) | (set(ROLES) if key == "role" else set())
    if given in known:
        return SelectionError(where, f"a site with {key} {given!r}", "none", counted(there))
    hint = f"{did_you_mean(given, known)} {counted(there)}"
    return SelectionError(where, f"a {key} that the model has", repr(given), hint)


def nothing(anatomy: Anatomy, selector: Selector, where: str) -> SelectionError:
    """Give the error for a selector of which nothing is left."""
    counts = counted(Counter(anatomy.role_counts()))
    return SelectionError(where, "at least one site", f"none for {selector}", counts)


def unexpected(coverage: Sequence[str], expect: int, found: int, where: str) -> SelectionError:
    """Give the error for a selection of another size than its author expected."""
    return SelectionError(
        where.removesuffix(".at") + ".expect",
        f"{expect} sites",
        f"{found} ({'; '.join(coverage) or 'everything'})",
        f"write expect: {found} if that is what you mean",
    )


def exclude(part: Selector, sites: Sequence[Site], where: str) -> SelectionError:
    """Give the error for an exclude that takes nothing out."""
    names = [site.path for site in sites]
    hint = near(next(iter((*part.path, *part.match)), ""), names)
    return SelectionError(where, "a site to leave out", f"none of {len(sites)} for {part}", hint)


def layer(given: str, counts: Mapping[str, int], where: str) -> SelectionError:
    """Give the error for a layer that no container has."""
    there = ", ".join(f"{name} has layers 0-{count - 1}" for name, count in sorted(counts.items()))
    return SelectionError(where, "layers that the model has", given, there or "it has no layers")


def near(given: str, names: Sequence[str]) -> str:
    """Suggest names whose last parts are nearest to a pattern's last part."""
    leaf = given.rpartition(".")[2].strip("*\\$^()") or given
    leaves = sorted({name.rpartition(".")[2] for name in names if not name.isdecimal()})
    hint = did_you_mean(leaf, leaves)
    return hint if hint != "there are none" else "no site is left by the other keys"


def counted(counts: Mapping[str, int]) -> str:
    """Write words with their counts, most frequent first."""
    shown = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return "there is: " + (
        ", ".join(f"{word} ({count})" for word, count in shown[:16]) or "nothing"
    )
