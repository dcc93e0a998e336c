"""The errors of selection: each shows what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from surgery.anatomy.site import ROLES, Anatomy, Site
from surgery.errors import SelectionError, did_you_mean

_WORDS: dict[str, Callable[[Site], Iterable[str]]] = {
    "role": lambda site: site.roles,
    "type": lambda site: site.types,
    "tower": lambda site: (site.tower,) if site.tower else (),
}


def entry(
    anatomy: Anatomy, key: str, given: str, alone: Sequence[Site], left: Sequence[Site], where: str
) -> SelectionError:
    """Give the error for one entry that finds nothing.

    Args:
        anatomy: where it was looked for.
        key: the selector's key.
        given: the entry.
        alone: the sites that the entry finds without the other keys.
        left: the sites that the other keys select.
        where: how errors name the selector.
    """
    place = f"{where}.{key}"
    if alone:
        wanted = f"a site with {key} {given!r} among the {len(left)} that the other keys select"
        found = f"none; the {len(alone)} with it are elsewhere, such as {alone[0].path!r}"
        words = _WORDS.get(key)
        return SelectionError(place, wanted, found, _counted(words, left) if words else "")
    if key in _WORDS:
        return _unknown(anatomy, key, given, place)
    names = [name for site in left for name in site.paths if name]
    found = f"none of {len(left)} sites"
    return SelectionError(place, f"a site that {given!r} matches", found, near(given, names))


def _unknown(anatomy: Anatomy, key: str, given: str, place: str) -> SelectionError:
    """Give the error for a role, type or tower that no site of the model has."""
    there = {word for site in anatomy for word in _WORDS[key](site)}
    instead = _counted(_WORDS[key], anatomy)
    if key != "role" or given not in ROLES:
        instead = f"{did_you_mean(given, there | _built_in(key))} {instead}"
    if not there and anatomy.notes:
        instead += f"; {anatomy.notes[0]}"
    return SelectionError(place, f"a {key} that the model has", repr(given), instead)


def _built_in(key: str) -> frozenset[str]:
    return frozenset(ROLES) if key == "role" else frozenset()


def nothing(anatomy: Anatomy, selector: str, where: str) -> SelectionError:
    """Give the error for a selector of which nothing is left."""
    found = f"none of {len(anatomy)} for {selector}"
    return SelectionError(where, "at least one site", found, _counted(_WORDS["role"], anatomy))


def unexpected(coverage: Sequence[str], expect: int, found: int, where: str) -> SelectionError:
    """Give the error for a selection of another size than its author expected."""
    return SelectionError(
        where.removesuffix(".at") + ".expect",
        f"{expect} site{'s' if expect != 1 else ''}",
        f"{found} ({'; '.join(coverage) or 'everything'})",
        f"write expect: {found} if that is what you mean",
    )


def exclude(given: str, sites: Sequence[Site], where: str) -> SelectionError:
    """Give the error for an exclude, or an entry of one, that takes nothing out."""
    found = f"none of the {len(sites)} selected for {given}"
    return SelectionError(where, "a selected site to leave out", found, "leave the entry away")


def only_a_part(part: Site, where: str) -> SelectionError:
    """Give the error for an exclude that means some rows of a weight that is selected whole."""
    return SelectionError(
        where,
        "a whole site to leave out",
        f"{part.part} alone, of {part.path!r}, which is selected whole",
        "write the roles that you want under `role:`, such as attention.q",
    )


def layer(given: str, counts: Mapping[str, int], where: str) -> SelectionError:
    """Give the error for a layer that no container has."""
    there = ", ".join(
        f"{name or 'the model'} has {count} layers, 0-{count - 1}"
        for name, count in sorted(counts.items())
    )
    hint = there or "the sites that the other keys select lie in no layers"
    return SelectionError(where, "layers that the model has", repr(given), hint)


def near(given: str, names: Sequence[str]) -> str:
    """Suggest names whose last parts are nearest to a pattern's last part."""
    leaf = given.rpartition(".")[2].strip("*\\$^()") or given
    leaves = sorted({name.rpartition(".")[2] for name in names if not name.isdecimal()})
    hint = did_you_mean(leaf, leaves)
    return hint if hint != "there are none" else "no site is left by the other keys"


def _counted(words: Callable[[Site], Iterable[str]], sites: Iterable[Site]) -> str:
    """Write the words of some sites with their counts, most frequent first."""
    counts = Counter(word for site in sites for word in words(site))
    shown = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    listed = ", ".join(f"{word} ({count})" for word, count in shown[:16])
    more = f" and {len(shown) - 16} more" if len(shown) > 16 else ""
    return f"there is: {listed or 'nothing'}{more}"
