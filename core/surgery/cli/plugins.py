"""``surgery plugins``: what is installed, what it offers, what is broken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from surgery.cli.session import Session, common
from surgery.errors import PluginError
from surgery.hooks.offers import KINDS
from surgery.hooks.registry import Registry


@click.command()
@common
def plugins(session: Session) -> int:
    """List plugins, what they offer, what is broken.

    The exit status is 1 where a plugin is broken or two offer the same name.
    """
    registry = session.registry
    errors = [*(one.error for one in registry.faults), *registry.clashes()]
    session.result(_data(registry, errors), "\n".join(_lines(registry)), ok=not errors)
    for error in errors:
        session.complain(str(error))
    return 1 if errors else 0


def _data(registry: Registry, errors: list[PluginError]) -> dict[str, Any]:
    broken = {fault.distribution for fault in registry.faults}
    listed = [
        {"name": name, "version": version, "broken": name in broken, "offers": offers}
        for name, version, offers in _listed(registry)
    ]
    return {"plugins": listed, "errors": [error.to_json() for error in errors]}


def _listed(registry: Registry) -> Iterator[tuple[str, str, dict[str, list[str]]]]:
    for name, version in sorted(registry.versions().items()):
        own = [offer for offer in registry.offers if offer.plugin[0] == name]
        kinds = {kind: [offer.name for offer in own if offer.kind == kind] for kind in KINDS}
        yield name, version, {kind: names for kind, names in kinds.items() if names}


def _lines(registry: Registry) -> Iterator[str]:
    if not registry.versions():
        yield "no plugins are installed"
    for name, version, offers in _listed(registry):
        yield f"{name} {version}"
        for kind, names in offers.items():
            yield f"  {KINDS[kind].word}: {', '.join(names)}"
        if not offers:
            yield "  offers nothing that works"
