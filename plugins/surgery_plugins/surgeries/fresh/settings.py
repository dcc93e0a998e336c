"""The configuration as a tree: which parts modules use, and how its values are changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from surgery.operate.edits import SetConfig

if TYPE_CHECKING:
    from torch import nn

    from surgery.anatomy.site import Site
    from surgery.operate.patient import Patient


def parts(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give every part of a configuration with its dotted key; the whole has the key ``""``."""
    yield prefix, config
    for name in getattr(config, "sub_configs", ()):
        part = getattr(config, name, None)
        if part is not None:
            yield from parts(part, joined(prefix, name))


def joined(*names: str) -> str:
    """Join names with dots; empty ones are left out."""
    return ".".join(name for name in names if name)


def below(sites: Sequence[Site], model: nn.Module) -> dict[str, nn.Module]:
    """Give the modules at and below the sites, each under its first path, in module order."""
    tops = {path for site in sites for path in site.paths}
    return {
        path: module
        for path, module in model.named_modules()
        if any(_within(path, top) for top in tops)
    }


def _within(path: str, top: str) -> bool:
    return not top or path == top or path.startswith(top + ".")


def parts_used(sites: Sequence[Site], patient: Patient) -> dict[str, Any]:
    """Give the parts of the configuration that modules at and below the sites hold, by key.

    The whole model at hand uses every part.
    """
    modules = below(sites, patient.model)
    held = {id(getattr(module, "config", None)) for module in modules.values()}
    return {key: part for key, part in parts(patient.config) if "" in modules or id(part) in held}


def stated(part: Any, name: str) -> Any:
    """Give a value that a part of a configuration states itself, or None."""
    return vars(part).get(name)


def changed(config: Any, settings: Mapping[str, Any]) -> Any:
    """Give a copy of a configuration with values changed.

    Args:
        config: the configuration.
        settings: new values by dotted key.
    """
    copy = deepcopy(config)
    for key, value in settings.items():
        *path, leaf = key.split(".")
        part = copy
        for name in path:
            part = getattr(part, name)
        setattr(part, leaf, deepcopy(value))
    return copy


def config_edits(before: Any, after: Any) -> Iterator[SetConfig]:
    """Give the edits that turn one configuration into another of the same parts.

    Values that a class sets through a property come last: what the property writes to other
    parts is then what they hold already, and is taken back first.
    """
    found = []
    for (key, old), (_, new) in zip(parts(before), parts(after), strict=True):
        for name, value in vars(new).items():
            plain = name not in getattr(old, "sub_configs", ()) and not name.startswith("_")
            if plain and vars(old).get(name) != value:
                late = isinstance(getattr(type(old), name, None), property)
                found.append((late, SetConfig(joined(key, name), value)))
    yield from (edit for _, edit in sorted(found, key=lambda pair: pair[0]))


def topmost(sites: Sequence[Site]) -> list[Site]:
    """Give the sites that lie below no other: what is at and below them is the same."""
    tops = {path for site in sites for path in site.paths}
    return [site for site in sites if not _covered(site.path, tops)]


def _covered(path: str, tops: set[str]) -> bool:
    while path:
        path = path.rpartition(".")[0]
        if path in tops:
            return True
    return False
