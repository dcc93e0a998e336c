"""Put what was observed onto the structure: roles, rows, axes, layers and towers of each site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from surgery.anatomy.layers import find_layers, layer_of
from surgery.anatomy.observed import Observed
from surgery.anatomy.provenance import Origin
from surgery.anatomy.roles import Reading
from surgery.anatomy.rows import joined
from surgery.anatomy.site import Anatomy, Layer, RowRange, Site
from surgery.anatomy.towers import inherited, towers_of

_QKV = {"attention.q", "attention.k", "attention.v"}


def assemble(model: nn.Module, sites: Sequence[Site], observed: Observed) -> Anatomy:
    """Give the anatomy of a model from its structure and what was observed."""
    attention = {_above(names) for names in observed.attention if names}
    roles = observed.readings
    layers = find_layers(model, attention, [_owner(n) for n, r in roles.items() if r.roles])
    towers = towers_of(roles, layers)
    modules = _module_roles(observed, attention, layers)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    placed: list[Site] = []
    for site in sites:
        layer, reading = layer_of(site.path, layers), roles.get(site.parameter or "")
        told = {"layer": layer, "tower": towers.of(layer, reading)}
        placed.append(_place(site, roles, modules, parameters, observed.direct, told))
    return Anatomy(tuple(inherited(placed)), notes=observed.notes, traced=bool(roles))


def _place(
    site: Site,
    readings: dict[str, Reading],
    modules: dict[str, set[str]],
    parameters: dict[str, nn.Parameter],
    direct: frozenset[str],
    told: dict[str, Any],
) -> Site:
    reading = next((readings[n] for n in _names(site) if n in readings), None)
    own = set().union(*(modules.get(path, set()) for path in site.paths))
    if reading is None or not reading.roles:
        found = bool(own)
        evidence = "trace" if found else "none"
        return replace(site, roles=frozenset(own), evidence=evidence, **told)
    roles = reading.roles | own
    rows = _rows_of(reading)
    if len(roles & _QKV) > 1 and len(set(rows) & _QKV) > 1:
        roles |= {"attention.qkv"}
    out_axis, in_axis = _axes(reading.origins, parameters.get(site.parameter or ""))
    whole = len(rows) == 1 and [*rows.values()] == [((0, (*site.shape, 0)[out_axis]),)]
    return replace(
        site,
        roles=frozenset(roles),
        rows={} if whole else rows,
        out_axis=out_axis,
        in_axis=in_axis,
        evidence="trace",
        direct=site.parameter in direct,
        **told,
    )


def _names(site: Site) -> Iterable[str]:
    if site.parameter is None:
        return ()
    leaf = site.parameter.rpartition(".")[2]
    return (site.parameter, *(f"{path}.{leaf}" for path in site.paths))


def _rows_of(reading: Reading) -> dict[str, tuple[RowRange, ...]]:
    return {role: joined(ranges) for role, ranges in sorted(reading.rows.items())}


def _axes(origins: Sequence[Origin], parameter: Tensor | None) -> tuple[int, int | None]:
    for origin in origins:
        if parameter is not None and origin.weight is not None and parameter.dim() > 1:
            out = _axis(origin.weight, origin.out_dim, parameter)
            if origin.in_dim is None:
                return out, None
            return out, _axis(origin.weight, origin.in_dim, parameter)
    return 0, None


def _axis(weight: Tensor, dim: int, parameter: Tensor) -> int:
    """Find the parameter's axis that a view of it shows as ``dim``: the one of equal stride."""
    strides = parameter.stride()
    stride = weight.stride(dim)
    if stride in strides and strides.count(stride) == 1:
        return strides.index(stride)
    return dim % weight.dim() + parameter.dim() - weight.dim()


def _module_roles(
    observed: Observed, attention: set[str], layers: dict[str, Layer]
) -> dict[str, set[str]]:
    roles: dict[str, set[str]] = {path: {"layer"} for path in layers}
    for path in attention:
        if path:
            roles.setdefault(path, set()).add("attention")
    for names in observed.mlp:
        path = _above(names)
        if path and path not in layers:
            roles.setdefault(path, set()).add("mlp")
    return roles


def _above(names: Iterable[str]) -> str:
    """Give the path of the deepest module that holds all of some weights."""
    split = [_owner(name).split(".") for name in names]
    common = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _owner(name: str) -> str:
    return name.rpartition(".")[0]
