"""Find plugins: by the entry points of installed distributions, and by path."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import Distribution, EntryPoint, distributions
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from surgery.errors import PluginError
from surgery.hooks.specs import PROJECT

DISABLE = "SURGERY_DISABLE_PLUGINS"
"""Environment variable: distributions to leave out, separated by commas."""

_LOCAL = "surgery_local_"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Plugin:
    """One object with hooks, and the distribution that it came from.

    Attributes:
        distribution: the distribution's name; the name of a local file.
        version: the distribution's version; a digest of a local file.
        entry: name of the entry point; the path of a local file.
        hooks: the module or object that implements hooks.
    """

    distribution: str
    version: str
    entry: str
    hooks: object


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a plugin; the others go on without it.

    Attributes:
        distribution: the distribution's name; the name of a local file.
        version: the distribution's version.
        error: where, wanted, found and what to do instead.
    """

    distribution: str
    version: str
    error: PluginError


def fault(owner: tuple[str, str], place: str, wanted: str, found: str, instead: str = "") -> Fault:
    """Give the fault of a plugin.

    Args:
        owner: name and version of its distribution.
        place: what in the plugin is wrong, such as a hook.
        wanted: what was expected there.
        found: what is there.
        instead: what to do; by default how to leave the plugin out.
    """
    where = f"plugin {' '.join(owner)}: {place}"
    hint = instead or f"mend it, uninstall it, or set {DISABLE}={owner[0]}"
    return Fault(*owner, PluginError(where, wanted, found, hint))


def discover(
    environment: Mapping[str, str] = os.environ,
) -> tuple[tuple[Plugin, ...], tuple[Fault, ...]]:
    """Load the plugins of all installed distributions; a broken one becomes a fault.

    Both are sorted by the distribution's name, so that nothing depends on the file system.

    Args:
        environment: where ``SURGERY_DISABLE_PLUGINS`` is looked up.
    """
    left_out = {normal_name(name) for name in environment.get(DISABLE, "").split(",")}
    found = sorted(_installed(left_out), key=lambda one: normal_name(one.distribution))
    plugins = tuple(one for one in found if isinstance(one, Plugin))
    return plugins, tuple(one for one in found if isinstance(one, Fault))


def load_file(path: Path) -> Plugin:
    """Load one local plugin from a Python file.

    Args:
        path: the file.

    Raises:
        PluginError: the file is missing, is no Python, or fails when it is run.
    """
    where = f"--plugin {path}"
    try:
        digest = sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise PluginError(where, "a Python file", error.strerror or "no file") from None
    place = sha256(str(path.resolve()).encode()).hexdigest()[:8]
    module, reason = guarded(partial(_run, path, f"{_LOCAL}{place}_{digest}"))
    if module is None:
        raise PluginError(where, "a file that can be imported", reason)
    return Plugin(path.name, f"sha256:{digest}", str(path), module)


def local_files() -> dict[str, Path]:
    """Give the files of the local plugins that this process has loaded, by module name."""
    found = {name: module for name, module in sys.modules.items() if name.startswith(_LOCAL)}
    return {n: Path(file).resolve() for n, m in found.items() if (file := m.__file__)}


def guarded(call: Callable[[], _T]) -> tuple[_T | None, str]:
    """Call a plugin's code, even code that tries to exit.

    What it prints goes to stderr, so that output for machines stays whole.

    Returns:
        What it gave and ``""``; or None and what it raised, as one line.
    """
    try:
        with redirect_stdout(sys.stderr):
            return call(), ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        lines = str(error).strip().splitlines()
        return None, f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def normal_name(name: str) -> str:
    """Give the form of a distribution's name in which equal names are equal."""
    return name.strip().lower().replace("_", "-").replace(".", "-")


def _installed(left_out: set[str]) -> Iterator[Plugin | Fault]:
    seen: set[str] = set()
    for distribution in distributions():
        text, _ = guarded(partial(distribution.read_text, "entry_points.txt"))
        if not text or f"[{PROJECT}]" not in text:
            continue
        owner = _owner(distribution)
        if normal_name(owner[0]) not in seen | left_out:
            seen.add(normal_name(owner[0]))
            yield from _load_all(distribution, owner)


def _owner(distribution: Distribution) -> tuple[str, str]:
    name, _ = guarded(lambda: distribution.metadata["Name"])
    version, _ = guarded(lambda: distribution.version)
    return str(name or "unnamed"), str(version or "unknown")


def _load_all(distribution: Distribution, owner: tuple[str, str]) -> Iterator[Plugin | Fault]:
    points, reason = guarded(lambda: distribution.entry_points.select(group=PROJECT))
    if points is None:
        yield fault(owner, "entry_points.txt", "a file that can be read", reason)
    for point in points or ():
        yield _load(point, owner)


def _load(point: EntryPoint, owner: tuple[str, str]) -> Plugin | Fault:
    hooks, reason = guarded(point.load)
    if reason:
        place = f"entry point {point.name} = {point.value}"
        return fault(owner, place, "an import that works", reason)
    return Plugin(*owner, point.name, hooks)


def _run(path: Path, name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("its name does not end in .py")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
