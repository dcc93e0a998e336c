"""The registry: everything that the plugins offer, by kind and name. A value."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.anatomy.site import ROLES
from surgery.errors import PluginError, did_you_mean
from surgery.hooks.discover import DISABLE, Fault, Plugin, discover, load_file
from surgery.hooks.offers import KINDS, Offer, offers_of

if TYPE_CHECKING:
    from surgery.operate.exporter import Exporter
    from surgery.operate.family import Family
    from surgery.operate.importer import Importer
    from surgery.operate.initialiser import Initialiser
    from surgery.operate.source import Source
    from surgery.operate.surgery import Surgery


NAMED = frozenset({"initialiser", "attachment"})
"""Kinds of offers that the options of surgeries name."""


@dataclass(frozen=True)
class Registry:
    """Hold what the plugins offer and what is wrong with them.

    Attributes:
        offers: all offers, in the order in which plugins were found; clashing ones too.
        plugins: the plugins that were loaded.
        faults: what is wrong, by plugin; nobody else is affected.
    """

    offers: tuple[Offer, ...] = ()
    plugins: tuple[Plugin, ...] = ()
    faults: tuple[Fault, ...] = ()

    def surgery(self, name: str) -> type[Surgery]:
        """Give the class of a surgery.

        Raises:
            PluginError: nobody offers it, or more than one does.
        """
        return self.offer("surgery", name).value  # type: ignore[no-any-return]

    def source(self, name: str) -> type[Source]:
        """Give the class of a source.

        Raises:
            PluginError: nobody offers it, or more than one does.
        """
        return self.offer("source", name).value  # type: ignore[no-any-return]

    def initialiser(self, name: str) -> type[Initialiser]:
        """Give the class of an initialiser.

        Raises:
            PluginError: nobody offers it, or more than one does.
        """
        return self.offer("initialiser", name).value  # type: ignore[no-any-return]

    def objective(self, name: str) -> type[Any]:
        """Give the class of an objective.

        Raises:
            PluginError: nobody offers it, or more than one does.
        """
        return self.offer("objective", name).value  # type: ignore[no-any-return]

    def data(self, name: str) -> type[Any]:
        """Give the class of a data set.

        Raises:
            PluginError: nobody offers it, or more than one does.
        """
        return self.offer("data", name).value  # type: ignore[no-any-return]

    def exporter(self, name: str) -> Exporter:
        """Give an exporter.

        Raises:
            PluginError: nobody offers it, or more than one does.
        """
        return self.offer("exporter", name).value  # type: ignore[no-any-return]

    def importer(self, name: str) -> Importer:
        """Give an importer.

        Raises:
            PluginError: nobody offers it, or more than one does.
        """
        return self.offer("importer", name).value  # type: ignore[no-any-return]

    def families(self) -> tuple[Family, ...]:
        """Give all families.

        Raises:
            PluginError: two of them have one name.
        """
        return tuple(self.offer("family", name).value for name in self.names("family"))

    def offer(self, kind: str, name: str) -> Offer:
        """Give the one offer of a name, with the distribution that it comes from.

        Args:
            kind: ``surgery``, ``source``, ``family``, ``objective`` or ``data``.
            name: what a recipe writes.

        Raises:
            PluginError: nobody offers it, or more than one does.
        """
        found = [offer for offer in self.offers if (offer.kind, offer.name) == (kind, name)]
        if not found:
            raise self._unknown(kind, name)
        if len(found) > 1:
            raise _clash(found)
        return found[0]

    def owner(self, kind: str, value: object) -> tuple[str, str]:
        """Give name and version of the distribution that offers an object, or two empty texts."""
        found = (o.plugin for o in self.offers if o.kind == kind and o.value is value)
        return next(found, ("", ""))

    def owners_of_named(self, options: object) -> tuple[tuple[str, str], ...]:
        """Give the distributions that offer what options name, such as an initialiser.

        Args:
            options: JSON values; a text in them that is the name of an offer counts, at any depth.
        """
        texts = set(_texts(options))
        named = (offer for offer in self.offers if offer.kind in NAMED and offer.name in texts)
        return tuple(dict.fromkeys(offer.plugin for offer in named))

    def names(self, kind: str) -> tuple[str, ...]:
        """Give the names that are offered of one kind, sorted."""
        return tuple(sorted({offer.name for offer in self.offers if offer.kind == kind}))

    def roles(self) -> tuple[str, ...]:
        """Give the roles that recipes may name: the built-in ones and those of families."""
        families = (offer.value for offer in self.offers if offer.kind == "family")
        return tuple(dict.fromkeys((*ROLES, *(role for one in families for role in one.roles))))

    def clashes(self) -> tuple[PluginError, ...]:
        """Give one error for each name that more than one plugin offers."""
        table: dict[tuple[str, str], list[Offer]] = {}
        for offer in self.offers:
            table.setdefault((offer.kind, offer.name), []).append(offer)
        return tuple(_clash(offers) for offers in table.values() if len(offers) > 1)

    def versions(self) -> Mapping[str, str]:
        """Give the version of each distribution that was loaded or is broken, by name."""
        owners = [(plugin.distribution, plugin.version) for plugin in self.plugins]
        return dict([*((fault.distribution, fault.version) for fault in self.faults), *owners])

    def with_plugins(self, plugins: Iterable[Plugin]) -> Registry:
        """Give a registry with more plugins."""
        added = tuple(plugins)
        checked = [offers_of(plugin) for plugin in added]
        return replace(
            self,
            offers=(*self.offers, *(offer for offers, _ in checked for offer in offers)),
            plugins=(*self.plugins, *added),
            faults=(*self.faults, *(one for _, faults in checked for one in faults)),
        )

    def _unknown(self, kind: str, name: str) -> PluginError:
        hint = did_you_mean(name, self.names(kind))
        broken = dict.fromkeys(f"{one.distribution} {one.version}" for one in self.faults)
        if broken:
            hint += f" (broken: {', '.join(broken)}; see `surgery plugins`)"
        return PluginError(
            f"{KINDS[kind].word} '{name}'",
            f"the name of a {KINDS[kind].word}",
            "a name that no plugin offers",
            hint,
        )


def registry(files: Sequence[Path] = (), environment: Mapping[str, str] = os.environ) -> Registry:
    """Give what the installed plugins and some local files offer.

    Entry points are read once in a process.

    Args:
        files: local plugins.
        environment: where ``SURGERY_DISABLE_PLUGINS`` is looked up.

    Raises:
        PluginError: a local file cannot be loaded, or its hooks are wrong.
    """
    found = _installed(environment.get(DISABLE, ""))
    local = found.with_plugins(load_file(path) for path in files)
    for one in local.faults[len(found.faults) :]:
        raise one.error
    return local


@cache
def _installed(disabled: str) -> Registry:
    plugins, faults = discover({DISABLE: disabled})
    return Registry(faults=faults).with_plugins(plugins)


def _texts(value: object) -> Iterator[str]:
    """Give every text in JSON values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)


def _clash(offers: Sequence[Offer]) -> PluginError:
    first = offers[0]
    word = KINDS[first.kind].word
    owners = list(dict.fromkeys(" ".join(offer.plugin) for offer in offers))
    found = f"{' and '.join(owners)}" if len(owners) > 1 else f"{len(offers)} of {owners[0]}"
    return PluginError(
        f"{word} '{first.name}'",
        f"one plugin that offers the {word} '{first.name}'",
        found,
        f"uninstall one, or leave it out with {DISABLE}={offers[-1].plugin[0]}",
    )
