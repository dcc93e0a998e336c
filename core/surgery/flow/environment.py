"""Examine what surgery runs in: versions, devices, optional packages, plugins, disks."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from packaging.requirements import Requirement

from surgery.checkpoint.fetch import cache_folder
from surgery.checkpoint.trouble import in_units
from surgery.checks.check import Check, failed, passed, skipped, warned
from surgery.hooks.discover import guarded
from surgery.hooks.offers import KINDS
from surgery.hooks.registry import Registry

OWN = "model-surgery"
"""The name of this distribution."""

LITTLE = 2 << 30
"""Free bytes of a disk below which it is worth a warning."""


def environment(known: Registry) -> list[Check]:
    """Examine everything that can keep surgery from working here.

    Args:
        known: what the plugins offer.

    Returns:
        The checks, in the order in which people read them; what is optional and missing is
        skipped, with the line that installs it.
    """
    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return [
        passed("python", system),
        *_packages(),
        *devices(),
        *_plugins(known),
        *(_disk(name, folder) for name, folder in _folders().items()),
    ]


def devices() -> list[Check]:
    """Give what torch can compute on, with its memory in bytes as people read it."""
    torch, trouble = guarded(lambda: __import__("torch"))
    if torch is None:
        return [failed("torch", f"cannot be imported: {trouble}")]
    found = [passed("torch", str(torch.__version__))]
    found.append(passed("device cpu", f"{torch.get_num_threads()} threads{_memory()}"))
    for number in range(torch.cuda.device_count()):
        told, trouble = guarded(lambda n=number: _cuda(n))  # type: ignore[misc]
        name = f"device cuda:{number}"
        found.append(passed(name, told) if told is not None else failed(name, trouble))
    for kind in ("mps", "xpu"):
        part = getattr(torch.backends if kind == "mps" else torch, kind, None)
        if part is not None and part.is_available():
            found.append(passed(f"device {kind}"))
    if len(found) == 2:
        found.append(skipped("accelerator", "torch sees none"))
    return found


def _cuda(number: int) -> str:
    import torch

    free, total = torch.cuda.mem_get_info(number)
    name = torch.cuda.get_device_name(number)
    return f"{name}, {in_units(free)} of {in_units(total)} free"


def _memory() -> str:
    """Say how much memory the machine has, where the system tells."""
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return ""
    return f", {in_units(size)} of memory"


def _packages() -> Iterator[Check]:
    """Compare what the distribution requires, and each of its extras, with what is installed."""
    try:
        said = metadata(OWN)
    except PackageNotFoundError:
        yield failed(OWN, f"is not installed as a package; run: pip install {OWN}")
        return
    needed = [Requirement(text) for text in said.get_all("Requires-Dist") or ()]
    plain = [one for one in needed if _applies(one, "")]
    yield _installed(OWN, f"{said['Version']}, with ", plain, required=True)
    for extra in said.get_all("Provides-Extra") or ():
        own = [one for one in needed if _applies(one, extra) and one not in plain]
        own = [one for one in own if one.name != OWN]
        if own:
            yield _installed(f"extra {extra}", "", own, required=False)


def _applies(one: Requirement, extra: str) -> bool:
    return one.marker is None or one.marker.evaluate({"extra": extra})


def _installed(name: str, said: str, needed: list[Requirement], required: bool) -> Check:
    """Compare some requirements with what is installed."""
    found = {one.name: _version(one.name) for one in needed}
    missing = [n for n, v in found.items() if v is None]
    wrong = [
        f"{one.name} {found[one.name]} is installed, {one.specifier} is needed"
        for one in needed
        if found[one.name] and not one.specifier.contains(str(found[one.name]), prereleases=True)
    ]
    extra = "" if required else f"[{name.removeprefix('extra ')}]"
    hint = f"run: pip install '{OWN}{extra}'"
    if wrong or (missing and required):
        lacks = [f"{', '.join(missing)} is not installed"] if missing else []
        return failed(name, "; ".join([*wrong, *lacks, hint]))
    if missing:
        return skipped(name, f"not installed: {', '.join(missing)}; {hint}")
    return passed(name, said + ", ".join(f"{n} {v}" for n, v in found.items()))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _plugins(known: Registry) -> Iterator[Check]:
    """Give a check for each plugin, and one for each name that two of them offer."""
    faults: dict[str, list[str]] = {}
    for fault in known.faults:
        faults.setdefault(fault.distribution, []).append(str(fault.error))
    for name, one in sorted(known.versions().items()):
        own = [offer.kind for offer in known.offers if offer.plugin[0] == name]
        counts = [f"{KINDS[kind].word} {own.count(kind)}" for kind in KINDS if kind in own]
        title = f"plugin {name} {one}"
        fine = passed(title, ", ".join(counts))
        yield failed(title, "; ".join(faults[name])) if name in faults else fine
    for error in known.clashes():
        yield failed(error.where, f"expected {error.wanted}, got {error.found}; {error.instead}")


def _folders() -> dict[str, Path]:
    hub = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return {
        "working folder": Path.cwd(),
        "temporary files": Path(tempfile.gettempdir()),
        "files behind URLs": cache_folder(),
        "files of the hub": Path(hub).expanduser(),
    }


def _disk(name: str, folder: Path) -> Check:
    """Look at the disk of a folder, or of what stands nearest above it."""
    place = next((p for p in (folder, *folder.parents) if p.is_dir()), Path(folder.anchor or "."))
    title = f"disk of {name}"
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return failed(title, f"{place}: {error.strerror or error}")
    told = f"{folder}: {in_units(free)} free"
    if not os.access(place, os.W_OK):
        return warned(title, f"{told}, and not writable")
    return warned(title, f"{told}, which is little") if free < LITTLE else passed(title, told)
