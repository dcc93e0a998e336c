"""Where an adapter goes: the module, the kind of its weight, and who reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.dtypes import name_of
from surgery_plugins.surgeries.lora.branch import CONV, EMBEDDING, LINEAR, TABLE

if TYPE_CHECKING:
    from torch import nn

_READERS = {"MultiheadAttention", "TransformerEncoderLayer"}
"""Modules of torch that read the weights of modules below them without calling those."""

_CONVS = {"Conv1d", "Conv2d", "Conv3d"}


@dataclass(frozen=True, slots=True)
class Place:
    """Say where an adapter goes.

    Attributes:
        path: the module that gets the tensors.
        parameter: dotted name of the weight.
        leaf: name of the weight in the module.
        kind: kind of the weight.
        shape: shape of the weight.
        dtype: dtype of the weight by torch's name.
        out_axis: axis that holds output rows.
        in_axis: axis that holds input features.
        rows: how many output rows the adapter changes.
        beside: True where the module's forward is what uses the weight.
        bias: True where the module has a bias of its own.
        groups: in how many groups a convolution splits its channels.
    """

    path: str
    parameter: str
    leaf: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    out_axis: int
    in_axis: int
    rows: int
    beside: bool
    bias: bool
    groups: int = 1


def why_not(site: Site, rank: int, dora: bool) -> str | None:
    """Say why a site can have no adapter of a rank, from types and shapes alone."""
    if site.parameter is None:
        return f"{site.type} has no weight of its own"
    if len(site.shape) < 2:
        return f"its weight {list(site.shape)} is no matrix"
    kind = kind_of(site)
    if kind is None:
        return f"what {site.type} does with its weight is not known here"
    if kind == TABLE and site.in_axis is None:
        return "no forward showed which of its axes is the input"
    if dora and len(site.shape) == 3 and kind == TABLE:
        return "DoRA has no form for expert tensors"
    out, inner = axes(site, kind)
    rows = sum(stop - start for start, stop in site.rows[site.part]) if site.part else (
        site.shape[out]
    )  # fmt: skip
    largest = min(rows, prod(site.shape[1:]) if kind == CONV else site.shape[inner])
    return f"rank {rank} is larger than {largest}, the most it can have" if rank > largest else None


def kind_of(site: Site) -> str | None:
    """Give the kind of a site's weight, or None where it is none that can be adapted."""
    types = set(site.types)
    if types & {"Linear", "Conv1D"}:
        return LINEAR
    if "Embedding" in types:
        return EMBEDDING
    if types & _CONVS:
        return CONV
    if len(site.shape) in (2, 3) and not any("Conv" in name or "Norm" in name for name in types):
        return TABLE
    return None


def axes(site: Site, kind: str) -> tuple[int, int]:
    """Give the axes of output rows and of input features."""
    if kind == EMBEDDING:
        return 1, 0
    if kind == CONV:
        return 0, 1
    if "Conv1D" in site.types:
        return 1, 0
    if site.in_axis is None:
        return 0, 1
    return site.out_axis, site.in_axis


def place_of(site: Site, modules: Mapping[str, nn.Module]) -> Place:
    """Find out where the adapter of a site goes.

    Raises:
        RefusedError: the weight is quantised.
    """
    assert site.parameter is not None
    path, _, leaf = site.parameter.rpartition(".")
    module = modules[path]
    kind = kind_of(site)
    weight = module._parameters[leaf]
    assert kind is not None
    assert weight is not None
    if not weight.dtype.is_floating_point:
        raise _refused(site, "a floating-point weight", f"{name_of(weight.dtype)}")
    groups: Any = getattr(module, "groups", 1) if kind == CONV else 1
    out_axis, in_axis = axes(site, kind)
    whole = site.shape[out_axis]
    rows = sum(b - a for a, b in site.rows[site.part]) if site.part else whole
    above = type(modules.get(path.rpartition(".")[0])).__mro__
    read = site.direct or any(base.__name__ in _READERS for base in above)
    return Place(
        path=path,
        parameter=site.parameter,
        leaf=leaf,
        kind=kind,
        shape=site.shape,
        dtype=name_of(weight.dtype),
        out_axis=out_axis,
        in_axis=in_axis,
        rows=rows,
        beside=kind != TABLE and not read,
        bias=module._parameters.get("bias") is not None,
        groups=groups,
    )


def _refused(site: Site, wanted: str, found: str) -> RefusedError:
    return RefusedError(f"{site.path} (lora)", wanted, found, "exclude it")
