"""Select sites: a selection is a value that can be counted before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from surgery.anatomy import absent
from surgery.anatomy.glob import any_of, glob_regex
from surgery.anatomy.numbers import layer_numbers, ranges_text
from surgery.anatomy.selector import Selector
from surgery.anatomy.site import Anatomy, Site
from surgery.errors import RecipeError


@dataclass(frozen=True)
class Selection(Sequence[Site]):
    """The selected sites, in module order, and which entry found how many.

    Attributes:
        sites: the sites; a part of a fused weight is a site of its own.
        hits: key and entry of the selector, and the sites that the entry found.
    """

    sites: tuple[Site, ...]
    hits: tuple[tuple[str, str, tuple[Site, ...]], ...] = ()

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
        lines = [f"{len(self)} sites", *self.coverage()]
        shown = [f"  {site.path}{f' ({site.part})' if site.part else ''}" for site in self.sites]
        more = [f"  ... and {len(shown) - 20} more"] if len(shown) > 20 else []
        return "\n".join([*lines, *shown[:20], *more])


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
        SelectionError: nothing is selected, an entry selects nothing, a role, type or tower is
            unknown, a layer is out of range, or the number is not the expected one.
        RecipeError: a pattern or a layer range is no such thing.
    """
    sites, hits = _narrow(anatomy, selector, where)
    for number, part in enumerate(selector.exclude):
        place = f"{where}.exclude[{number}]"
        left_out = _matching(anatomy, part, sites, place)
        sites = tuple(site for site in sites if site not in left_out)
    selection = Selection(sites, tuple((k, e, _kept(found, sites)) for k, e, found in hits))
    if not sites:
        raise absent.nothing(anatomy, selector, where)
    if expect is not None and expect != len(sites):
        raise absent.unexpected(selection.coverage(), expect, len(sites), where)
    return selection


def _narrow(
    anatomy: Anatomy, selector: Selector, where: str
) -> tuple[tuple[Site, ...], list[tuple[str, str, tuple[Site, ...]]]]:
    sites, hits = anatomy.sites, []
    for key, find in _KEYS.items():
        entries = getattr(selector, key)
        if entries:
            found = find(anatomy, sites, entries, f"{where}.{key}")
            empty = [entry for entry, hit in zip(entries, found, strict=True) if not hit]
            if empty:
                raise absent.entry(anatomy, sites, key, empty[0], f"{where}.{key}")
            hits += [(key, e, tuple(hit)) for e, hit in zip(entries, found, strict=True)]
            wanted = {id(site): None for hit in found for site in hit}
            order = {id(site): site for hit in found for site in hit}
            sites = _in_order(anatomy, tuple(order[key] for key in wanted))
    return sites, hits


def _in_order(anatomy: Anatomy, sites: tuple[Site, ...]) -> tuple[Site, ...]:
    rank = {site.path: number for number, site in enumerate(anatomy.sites)}
    return tuple(sorted(sites, key=lambda site: (rank[site.path], sorted(site.roles))))


def _matching(anatomy: Anatomy, part: Selector, sites: tuple[Site, ...], where: str) -> set[Site]:
    """Give the selected sites that an exclude means; at least one."""
    meant, _ = _narrow(anatomy, part, where)
    paths = {site.path: site for site in meant}
    found = {
        site for site in sites
        if site.path in paths and (not paths[site.path].rows or site in meant or not site.part)
    }  # fmt: skip
    if not found:
        raise absent.exclude(part, sites, where)
    return found


def _kept(found: tuple[Site, ...], sites: tuple[Site, ...]) -> tuple[Site, ...]:
    kept = {(site.path, site.part) for site in sites} | {(site.path, None) for site in sites}
    return tuple(site for site in found if (site.path, site.part) in kept)


Hits = list[list[Site]]


def _by_path(anatomy: Anatomy, sites: tuple[Site, ...], globs: Sequence[str], where: str) -> Hits:
    return _by_regex(sites, [glob_regex(glob) for glob in globs])


def _by_match(anatomy: Anatomy, sites: tuple[Site, ...], given: Sequence[str], where: str) -> Hits:
    for pattern in given:
        try:
            re.compile(pattern)
        except re.error as error:
            raise RecipeError(where, "a regular expression", f"{pattern!r} ({error})") from None
    return _by_regex(sites, [f"(?:{pattern})" for pattern in given])


def _by_regex(sites: tuple[Site, ...], patterns: Sequence[str]) -> Hits:
    """Match each site once against all patterns together, then against each where it matters."""
    union = any_of(patterns)
    single = [re.compile(pattern, re.DOTALL) for pattern in patterns]
    found: Hits = [[] for _ in patterns]
    for site in sites:
        names = site.paths if site.parameter is None else (*site.paths, site.parameter)
        if any(map(union.fullmatch, names)):
            for hits, pattern in zip(found, single, strict=True):
                if any(map(pattern.fullmatch, names)):
                    hits.append(site)
    return found


def _by_type(anatomy: Anatomy, sites: tuple[Site, ...], types: Sequence[str], where: str) -> Hits:
    return [[site for site in sites if name in site.types] for name in types]


def _by_role(anatomy: Anatomy, sites: tuple[Site, ...], roles: Sequence[str], where: str) -> Hits:
    return [[site.narrowed(role) for site in sites if role in site.roles] for role in roles]


def _by_tower(anatomy: Anatomy, sites: tuple[Site, ...], towers: Sequence[str], where: str) -> Hits:
    return [[site for site in sites if site.tower == tower] for tower in towers]


def _by_layers(anatomy: Anatomy, sites: tuple[Site, ...], texts: Sequence[str], where: str) -> Hits:
    """Find sites by layer number; a number that no container has is an error."""
    counts = {site.layer.container: site.layer.count for site in sites if site.layer}
    entries = [entry.strip() for text in texts for entry in text.split(",")]
    for entry in entries:
        wanted = {c: layer_numbers(entry, count) for c, count in counts.items()}
        if not any(numbers <= set(range(counts[c])) for c, numbers in wanted.items()):
            raise absent.layer(entry, counts, where)
    return [
        [
            site
            for site in sites
            if site.layer
            and any(
                site.layer.number in layer_numbers(entry.strip(), site.layer.count)
                for entry in text.split(",")
            )
        ]
        for text in texts
    ]


_KEYS: dict[str, Callable[[Anatomy, tuple[Site, ...], Sequence[str], str], Hits]] = {
    "path": _by_path,
    "match": _by_match,
    "type": _by_type,
    "tower": _by_tower,
    "layers": _by_layers,
    "role": _by_role,
}


def _found(sites: Sequence[Site]) -> str:
    layers = {site.layer.number for site in sites if site.layer}
    inside = f" in layers {ranges_text(layers)}" if layers else ""
    return f"{len(sites)} site{'s' if len(sites) != 1 else ''}{inside}"
