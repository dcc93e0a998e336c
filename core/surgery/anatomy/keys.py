"""The keys of a selector: which of its entries a site answers to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from surgery.anatomy import absent
from surgery.anatomy.glob import any_of, glob_regex
from surgery.anatomy.numbers import LayerRange, layer_range
from surgery.anatomy.selector import Selector
from surgery.anatomy.site import Site
from surgery.errors import RecipeError


@dataclass(frozen=True)
class Key:
    """One key of a selector.

    Attributes:
        name: the key.
        entries: what is written there; any of it will do.
        find: gives the numbers of the entries that a site answers to.
    """

    name: str
    entries: tuple[str, ...]
    find: Callable[[Site], Sequence[int]]


def keys_of(selector: Selector, where: str) -> list[Key]:
    """Give the keys that are set, all but ``layers``; the cheap ones first.

    Raises:
        RecipeError: a pattern is no glob or no regular expression.
    """
    found = [
        Key("tower", selector.tower, _words(selector.tower, lambda s: (s.tower,))),
        Key("role", selector.role, _words(selector.role, lambda s: s.roles)),
        Key("type", selector.type, _words(selector.type, lambda s: s.types)),
        Key("path", selector.path, _globs(selector.path, f"{where}.path")),
        Key("match", selector.match, _patterns(_expressions(selector.match, f"{where}.match"))),
    ]
    return [key for key in found if key.entries]


def layers_key(texts: tuple[str, ...], sites: Sequence[Site], where: str) -> Key | None:
    """Give the key ``layers`` for the sites that all other keys select; None if it is not set.

    Raises:
        SelectionError: no container of these sites has all layers that an entry names.
        RecipeError: an entry names no layers.
    """
    counts = {site.layer.container: site.layer.count for site in sites if site.layer}
    ranges = [[layer_range(part, f"{where}.layers") for part in text.split(",")] for text in texts]
    for text, parts in zip(texts, ranges, strict=True):
        for part in parts:
            if not any(part.fits(count) for count in counts.values()):
                raise absent.layer(text, counts, f"{where}.layers")
    return Key("layers", texts, _numbers(ranges)) if texts else None


def _words(
    entries: tuple[str, ...], of: Callable[[Site], Sequence[str | None] | frozenset[str]]
) -> Callable[[Site], Sequence[int]]:
    def find(site: Site) -> list[int]:
        words = of(site)
        return [number for number, entry in enumerate(entries) if entry in words]

    return find


def _globs(globs: tuple[str, ...], where: str) -> Callable[[Site], Sequence[int]]:
    """Match names against all globs at once first; most sites end there."""
    regexes = [glob_regex(glob, where) for glob in globs]
    union, find_each = any_of(regexes), _patterns([re.compile(regex) for regex in regexes])

    def find(site: Site) -> Sequence[int]:
        return find_each(site) if any(map(union.fullmatch, _names(site))) else ()

    return find_each if len(globs) == 1 else find


def _patterns(patterns: Sequence[re.Pattern[str]]) -> Callable[[Site], Sequence[int]]:
    def find(site: Site) -> list[int]:
        names = _names(site)
        return [n for n, one in enumerate(patterns) if any(map(one.fullmatch, names))]

    return find


def _expressions(texts: tuple[str, ...], where: str) -> list[re.Pattern[str]]:
    return [_compiled(text, where) for text in texts]


def _compiled(text: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise RecipeError(where, "a regular expression", f"{text!r} ({error})") from None


def _numbers(entries: Sequence[Sequence[LayerRange]]) -> Callable[[Site], Sequence[int]]:
    def find(site: Site) -> list[int]:
        layer = site.layer
        if layer is None:
            return []
        return [
            number
            for number, parts in enumerate(entries)
            if any(layer.number in part.of(layer.count) for part in parts)
        ]

    return find


def _names(site: Site) -> tuple[str, ...]:
    return site.paths if site.parameter is None else (*site.paths, site.parameter)
