"""What a checkpoint needs of plugins: the ones that made it, in their versions or later ones."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

from surgery.errors import PluginError
from surgery.hooks.discover import normal_name
from surgery.hooks.registry import Registry
from surgery.operate.journal import Journal


def demand_plugins(journal: Journal, known: Registry, where: str) -> None:
    """Demand the plugins of every step of a journal.

    Args:
        journal: the record.
        known: what is installed.
        where: how errors name the journal.

    Raises:
        PluginError: one is missing, or older than the one that took part.
    """
    for number, entry in enumerate(journal.steps):
        place = f"{where}: steps[{number}] ({entry.use})"
        for name, version in {entry.plugin: entry.version, **entry.needs}.items():
            demand_plugin(name, version, known, place)


def demand_plugin(name: str, version: str, known: Registry, where: str) -> None:
    """Demand one plugin.

    Args:
        name: of its distribution, or of a local file; nothing is demanded of an empty one.
        version: that took part.
        known: what is installed.
        where: who needs it.

    Raises:
        PluginError: it is missing, or older.
    """
    versions = {normal_name(one): found for one, found in known.versions().items()}
    found = versions.get(normal_name(name))
    if not name or (found is not None and not _is_older(found, version)):
        return
    wanted = f"the plugin {name} {version}" + ("" if _is_local(version) else " or later")
    raise PluginError(where, wanted, f"version {found}" if found else "none", cure(name, version))


def cure(name: str, version: str) -> str:
    """Say how a plugin is had: what to install, or which local file to give."""
    if _is_local(version):
        return f"give the file: --plugin {name}"
    return f"run: pip install '{name}>={version}'"


def _is_local(version: str) -> bool:
    """Tell whether a version is the digest of a local file, which has no order."""
    return version.startswith("sha256:")


def _is_older(found: str, wanted: str) -> bool:
    try:
        return Version(found) < Version(wanted)
    except InvalidVersion:
        return False
