"""Select sites: a selection is a value that can be counted before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, overload

from surgery.anatomy import absent
from surgery.anatomy.keys import Key, keys_of, layers_key
from surgery.anatomy.numbers import ranges_text
from surgery.anatomy.selector import Selector
from surgery.anatomy.site import Anatomy, Site

Hits: TypeAlias = tuple[tuple[str, str, tuple[Site, ...]], ...]
"""Key and entry of a selector, and the selected sites that the entry found."""


@dataclass(frozen=True)
class Selection(Sequence[Site]):
    """The selected sites, in module order, and which entry found how many.

    Attributes:
        sites: the sites; a part of a fused weight is a site of its own.
        hits: for each entry of the selector the selected sites that it found.
    """

    sites: tuple[Site, ...]
    hits: Hits = ()

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Site, ...]: ...
    def __getitem__(self, index: int | slice) -> Site | tuple[Site, ...]:
        return self.sites[index]

    def coverage(self) -> list[str]:
        """Say for each entry how many sites it found, and in which layers."""
        return [f"{key} {entry}: {_found(sites)}" for key, entry, sites in self.hits]

    def __str__(self) -> str:
        shown = [f"  {site.path}{f' ({site.part})' if site.part else ''}" for site in self.sites]
        more = [f"  ... and {len(shown) - 20} more"] if len(shown) > 20 else []
        return "\n".join([_found(self.sites), *self.coverage(), *shown[:20], *more])


def select(
    anatomy: Anatomy, selector: Selector, *, expect: int | None = None, where: str = "at"
) -> Selection:
    """Select sites of an anatomy.

    Args:
        anatomy: where to select.
        selector: what is meant; all keys must hold, any entry of each will do.
        expect: how many sites there must be.
        where: how errors name the selector.

    Raises:
        SelectionError: nothing is selected, an entry or an exclude finds nothing, a role, type or
            tower is unknown, a layer is out of range, or the number is not the expected one.
        RecipeError: a pattern or a layer range is no such thing.
    """
    found = _chosen(anatomy, anatomy.sites, selector, where)
    selection = Selection(tuple(match.site for match in found), _hits(selector, found))
    if not found:
        raise absent.nothing(anatomy, str(selector), where)
    if expect is not None and expect != len(found):
        raise absent.unexpected(selection.coverage(), expect, len(found), where)
    return selection


@dataclass(frozen=True, slots=True)
class _Match:
    """A selected site, what it is a part of, and for each key the entries that found it."""

    site: Site
    whole: Site
    entries: Mapping[str, Sequence[int]]


def _chosen(
    anatomy: Anatomy, sites: Sequence[Site], selector: Selector, where: str
) -> list[_Match]:
    """Give the sites that a selector means, in order; every entry must find one of them."""
    keys = keys_of(selector, where)
    found = [match for site in sites for match in _matches(site, keys)]
    _check_entries(anatomy, sites, keys, found, where)
    layers = layers_key(selector.layers, [match.site for match in found], where)
    if layers:
        found = [
            _Match(match.site, match.whole, {**match.entries, "layers": entries})
            for match in found
            if (entries := layers.find(match.site))
        ]
        _check_entries(anatomy, sites, [*keys, layers], found, where)
    for number, part in enumerate(selector.exclude):
        found = _without(anatomy, found, part, f"{where}.exclude[{number}]")
    return found


def _matches(site: Site, keys: Iterable[Key]) -> Iterator[_Match]:
    """Give the site, or those of its parts that the roles ask for, if all keys hold."""
    entries: dict[str, Sequence[int]] = {}
    roles: dict[str, list[int]] = {}
    for key in keys:
        found = key.find(site)
        if not found:
            return
        entries[key.name] = found
        if key.name == "role":
            for number in found:
                roles.setdefault(key.entries[number], []).append(number)
    if not roles or any(role not in site.rows for role in roles):
        yield _Match(site, site, entries)
        return
    for role in sorted(roles, key=lambda role: site.rows[role]):
        yield _Match(site.narrowed(role), site, {**entries, "role": roles[role]})


def _check_entries(
    anatomy: Anatomy, sites: Sequence[Site], keys: Sequence[Key], found: list[_Match], where: str
) -> None:
    """Demand that every entry found a site; blame the one that finds none even by itself."""
    idle = [
        (key, number)
        for key in keys
        for number in sorted(set(range(len(key.entries))) - _used(key.name, found))
    ]
    if not idle:
        return
    alone = {pair: [s for s in sites if pair[1] in pair[0].find(s)] for pair in idle}
    key, number = min(idle, key=lambda pair: len(alone[pair]) > 0)
    others = [one for one in keys if one is not key]
    left = [site for site in sites if all(one.find(site) for one in others)]
    raise absent.entry(anatomy, key.name, key.entries[number], alone[key, number], left, where)


def _used(key: str, found: Sequence[_Match]) -> set[int]:
    return {number for match in found for number in match.entries[key]}


def _without(anatomy: Anatomy, found: list[_Match], part: Selector, where: str) -> list[_Match]:
    """Leave out what an exclude means; each of its entries must take something out."""
    wholes = {match.whole.path: match.whole for match in found}
    meant: dict[str, list[_Match]] = {}
    for match in _chosen(anatomy, tuple(wholes.values()), part, where):
        meant.setdefault(match.site.path, []).append(match)
    kept, used = [], []
    for match in found:
        against = [one for one in meant.get(match.site.path, ()) if _covers(one, match, where)]
        used += against
        if not against:
            kept.append(match)
    for key, entry, sites in _hits(part, used):
        if not sites:
            raise absent.exclude(f"{key}={entry}", [match.site for match in found], where)
    return kept


def _covers(out: _Match, match: _Match, where: str) -> bool:
    """Tell whether an excluded site holds all of a selected one."""
    if out.site is out.whole or out.site.part == match.site.part:
        return True
    if match.site is match.whole:
        raise absent.only_a_part(out.site, where)
    return False


def _hits(selector: Selector, found: Sequence[_Match]) -> Hits:
    return tuple(
        (key, entry, tuple(m.site for m in found if number in m.entries[key]))
        for key in ("path", "match", "type", "tower", "role", "layers")
        for number, entry in enumerate(getattr(selector, key))
    )


def _found(sites: Sequence[Site]) -> str:
    layers = {site.layer.number for site in sites if site.layer}
    inside = f" in layers {ranges_text(layers)}" if layers else ""
    return f"{len(sites)} site{'s' if len(sites) != 1 else ''}{inside}"
