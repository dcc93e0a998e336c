"""PEFT's tensors in this package's layout: the same numbers, otherwise arranged.

PEFT folds experts into the rank: A is ``(experts * r, in)``, B is ``(out, r * experts)``, and
takes the last two axes of a raw weight as ``(out, in)`` unless its module says ``is_transposed``.
A of a convolution reads all input channels, whatever the base's groups.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from surgery_plugins.surgeries.lora.branch import CONV, EMBEDDING, TABLE
from surgery_plugins.surgeries.lora.places import Place

if TYPE_CHECKING:
    from torch import Tensor

Convert: TypeAlias = "Callable[[Tensor], Tensor]"
Shapes: TypeAlias = dict[str, tuple[int, ...]]


def their_shapes(place: Place, rank: int, told: bool) -> Shapes:
    """Give the shapes of PEFT's A, B and M.

    Args:
        place: the adapted weight.
        rank: the rank, of each expert where there are any.
        told: True where the module says ``is_transposed``.
    """
    shape = place.shape
    if place.kind == EMBEDDING:
        return {"A": (rank, shape[0]), "B": (shape[1], rank), "M": (shape[1],)}
    if place.kind == CONV:
        ones = (1,) * (len(shape) - 2)
        a = (rank, shape[1] * place.groups, *shape[2:])
        return {"A": a, "B": (shape[0], rank // place.groups, *ones), "M": (1, shape[0], *ones)}
    if place.kind == TABLE:
        count = shape[0] if len(shape) == 3 else 1
        out, inner = reversed(shape[-2:]) if told else shape[-2:]
        return {"A": (count * rank, inner), "B": (out, rank * count), "M": (out,)}
    out, inner = shape[place.out_axis], shape[place.in_axis]
    return {"A": (rank, inner), "B": (out, rank), "M": (out,)}


def to_ours(place: Place, told: bool) -> dict[str, tuple[str, Convert]]:
    """Say of which of PEFT's tensors ours are made, and how."""
    length: tuple[str, Convert] = ("M", partial(_flat))
    if place.kind == CONV and place.groups > 1:
        return {"A": ("A", partial(_own_channels, place.groups)), "B": ("B", _same), "M": length}
    if place.kind != TABLE:
        return {"A": ("A", _same), "B": ("B", _same), "M": length}
    count = place.shape[0] if len(place.shape) == 3 else 0
    a, b = partial(_each_a, count), partial(_each_b, count)
    if (place.out_axis == len(place.shape) - 1) == told:
        return {"A": ("A", a), "B": ("B", b), "M": length}
    return {"A": ("B", partial(_turned, b)), "B": ("A", partial(_turned, a)), "M": length}


def reads_other_groups(a: Tensor, groups: int) -> bool:
    """Tell whether A of a grouped convolution reads channels of other groups than its own."""
    import torch

    return not torch.equal(a, all_channels(_own_channels(groups, a), groups))


def all_channels(a: Tensor, groups: int) -> Tensor:
    """Give A over all input channels: zero where it reads another group's.

    Args:
        a: ``[r, in / groups, ...]``.
        groups: the base's groups, which divide the rank.

    Returns:
        ``[r, in, ...]``.
    """
    width, each = a.shape[1], a.shape[0] // groups
    full = a.new_zeros(a.shape[0], width * groups, *a.shape[2:])
    for group in range(groups):
        rows = slice(group * each, (group + 1) * each)
        full[rows, group * width : (group + 1) * width] = a[rows]
    return full


def _own_channels(groups: int, a: Tensor) -> Tensor:
    """Give what each group's rows of A read of the group's own channels."""
    import torch

    width, each = a.shape[1] // groups, a.shape[0] // groups
    return torch.cat(
        [a[g * each : (g + 1) * each, g * width : (g + 1) * width] for g in range(groups)]
    )


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1)


def _each_a(experts: int, a: Tensor) -> Tensor:
    return a.reshape(experts, -1, a.shape[-1]) if experts else a


def _each_b(experts: int, b: Tensor) -> Tensor:
    return b.reshape(b.shape[0], -1, experts).permute(2, 0, 1) if experts else b


def _turned(each: Convert, tensor: Tensor) -> Tensor:
    return each(tensor).mT.contiguous()
