"""Where an adapter goes: the module, the kind of its weight, and who reads it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, cast

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.dtypes import name_of
from surgery_plugins.surgeries.lora.branch import CONV, EMBEDDING, LINEAR, TABLE

if TYPE_CHECKING:
    from torch import nn

_READERS = {"MultiheadAttention", "TransformerEncoderLayer"}
"""Modules of torch that read the weights of modules below them without calling those."""

_CONVS = {"Conv1d", "Conv2d", "Conv3d"}

_PLAIN = _CONVS | {"Linear", "Conv1D", "Embedding"}
"""Classes whose ``forward`` is linear in the weight; a subclass with its own may be anything."""


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
        bias: name of the bias that goes with the weight, or an empty text.
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
    bias: str
    groups: int = 1


def why_not(site: Site, dora: bool) -> str | None:
    """Say why a site can have no adapter, from types and shapes alone."""
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
    if kind == TABLE and len(site.shape) == 3 and 0 in axes(site, kind):
        return f"no axis of its weight {list(site.shape)} is left for the experts"
    return None


def fan_in(site: Site) -> int:
    """Give how many inputs a row of A has; of an embedding, how many outputs B has."""
    kind = kind_of(site)
    if kind == EMBEDDING:
        return site.shape[1]
    return prod(site.shape[1:]) if kind == CONV else site.shape[axes(site, str(kind))[1]]


def largest_rank(site: Site) -> int:
    """Give the largest rank that the adapted rows of a weight can have."""
    kind = str(kind_of(site))
    out, inner = axes(site, kind)
    rows = count_rows(site, out)
    return min(rows, prod(site.shape[1:]) if kind == CONV else site.shape[inner])


def count_rows(site: Site, out_axis: int) -> int:
    """Give how many output rows a site has: those of its part, or all."""
    if site.part is None:
        return site.shape[out_axis]
    return sum(stop - start for start, stop in site.rows[site.part])


def check_dropout(place: Place, dropout: float) -> None:
    """Refuse dropout where there is no input to drop.

    Raises:
        RefusedError: token ids, or a weight that is read without its module being called.
    """
    if place.kind == EMBEDDING:
        why = "token ids cannot be dropped"
    elif not place.beside:
        why = "the weight is used without its module's forward, which alone sees the inputs"
    else:
        return
    raise RefusedError(
        f"{place.parameter} (lora)",
        f"dropout 0, because {why}",
        f"dropout {dropout}",
        "give it a lora step of its own without dropout, or exclude it",
    )


def check_alone(place: Place, model: nn.Module) -> None:
    """Refuse to rewrite a weight that other modules hold too, and would see without the adapter.

    Raises:
        RefusedError: the weight is tied.
    """
    owner = model.get_submodule(place.path)
    weight = owner._parameters[place.leaf]
    for path, module in model.named_modules():
        for leaf, tensor in module._parameters.items():
            if tensor is weight and (module, leaf) != (owner, place.leaf):
                raise RefusedError(
                    f"{place.parameter} (lora)",
                    "a weight of its own, for an init that takes a part of it away",
                    f"one that {path}.{leaf} shares",
                    "choose an init that draws, or exclude it",
                )


def kind_of(site: Site) -> str | None:
    """Give the kind of a site's weight, or None where it is none that can be adapted."""
    return _kind(site.types, len(site.shape))


@cache
def _kind(names: tuple[str, ...], axes: int) -> str | None:
    types = set(names)
    if types & {"Linear", "Conv1D"}:
        return LINEAR
    if "Embedding" in types:
        return EMBEDDING
    if types & _CONVS:
        return CONV
    if axes in (2, 3) and not any("Conv" in name or "Norm" in name for name in types):
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
    weight = module._parameters.get(leaf)
    assert kind is not None
    if weight is None:
        raise _refused(site, f"a parameter {leaf!r}", "a value computed from others")
    if kind == EMBEDDING and getattr(module, "max_norm", None) is not None:
        raise _refused(site, "an embedding that is only read", "max_norm, which rewrites its rows")
    if not weight.dtype.is_floating_point:
        raise _refused(site, "a floating-point weight", f"{name_of(weight.dtype)}")
    groups: Any = getattr(module, "groups", 1) if kind == CONV else 1
    out_axis, in_axis = axes(site, kind)
    cls: Any = type(module)
    above: Any = type(modules.get(path.rpartition(".")[0]))
    read = site.direct or _reads_below(above)
    return Place(
        path=path,
        parameter=site.parameter,
        leaf=leaf,
        kind=kind,
        shape=site.shape,
        dtype=name_of(weight.dtype),
        out_axis=out_axis,
        in_axis=in_axis,
        rows=count_rows(site, out_axis),
        beside=kind != TABLE and not read and _plain_forward(cls),
        bias=_bias_of(module, leaf),
        groups=groups,
    )


@cache
def _reads_below(cls: Hashable) -> bool:
    """Tell whether a class reads weights of the modules below it without calling those."""
    return any(base.__name__ in _READERS for base in cast("type", cls).__mro__)


@cache
def _plain_forward(cls: Hashable) -> bool:
    """Tell whether a class computes what its ancestor of torch or transformers does."""
    from surgery.operate.behaviour import Behaviour

    mro = cast("type", cls).__mro__
    definer = next(c for c in mro if "forward" in vars(c) and not issubclass(c, Behaviour))
    return definer.__name__ in _PLAIN


def _bias_of(module: nn.Module, leaf: str) -> str:
    """Give the name of the bias beside a weight, such as ``in_proj_bias``."""
    name = leaf.removesuffix("weight") + "bias"
    return name if module._parameters.get(name) is not None else ""


def _refused(site: Site, wanted: str, found: str) -> RefusedError:
    return RefusedError(f"{site.path} (lora)", wanted, found, "exclude it")
