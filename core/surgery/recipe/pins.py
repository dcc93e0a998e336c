"""Check the versions of plugins that a recipe pins."""

from __future__ import annotations

from collections.abc import Mapping

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from surgery.errors import did_you_mean
from surgery.hooks.discover import normal_name
from surgery.hooks.registry import Registry
from surgery.recipe.messages import Problem
from surgery.recipe.nodes import Node, mistake


def wrong_pins(node: Node | None, registry: Registry) -> list[Problem]:
    """Find distributions under ``plugins:`` that are missing or of another version.

    Args:
        node: the mapping of distributions to version specifications.
        registry: what is installed.
    """
    versions = {normal_name(name): version for name, version in registry.versions().items()}
    pins = node.value if node and isinstance(node.value, Mapping) else {}
    found = (_wrong(name, pin, versions) for name, pin in pins.items())
    return [problem for problem in found if problem is not None]


def _wrong(name: str, pin: Node, versions: Mapping[str, str]) -> Problem | None:
    if not isinstance(pin.value, str):
        return None
    at = ("plugins", name)
    try:
        wanted = SpecifierSet(pin.value)
    except InvalidSpecifier:
        form = "versions such as '>=1,<2'"
        return pin.mark, mistake(pin.mark, at, form, repr(pin.value))
    version = versions.get(normal_name(name))
    if version is None:
        hint = f"run: pip install '{name}{wanted}' ({did_you_mean(name, versions)})"
        return pin.mark, mistake(pin.mark, at, f"the plugin {name} {wanted}", "none", hint)
    if wanted.contains(version, prereleases=True):
        return None
    hint = f"run: pip install '{name}{wanted}'"
    return pin.mark, mistake(pin.mark, at, f"{name} {wanted}", f"{name} {version}", hint)
