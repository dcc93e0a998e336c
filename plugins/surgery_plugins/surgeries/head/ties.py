"""Which weights at and below some sites are shared with other modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery.anatomy.site import Site
from surgery_plugins.surgeries.fresh.settings import below

if TYPE_CHECKING:
    from torch import nn


def tied_elsewhere(sites: Sequence[Site], model: nn.Module) -> list[tuple[str, str]]:
    """Give the parameters at and below the sites that other modules hold too, and where."""
    own = below(sites, model)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    found = []
    for group in names.values():
        inside = [name for name in group if name.rpartition(".")[0] in own]
        outside = [name for name in group if name not in inside]
        if inside and outside:
            found.append((inside[0], outside[0]))
    return found
