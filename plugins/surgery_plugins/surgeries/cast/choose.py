"""Which tensors a cast changes, and which stay and why. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from surgery.anatomy.glob import any_of, glob_regex
from surgery.errors import RefusedError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, dtype

Why: TypeAlias = Literal["complex", "table", "position", "asked", "other"]
"""Why a tensor stays: complex numbers, a computed table, a position table by its name, because
the recipe says so, or no floating numbers of two bytes or more."""

POSITION = re.compile(
    r"(?:^|[._])(?:"
    r"t?pos(?:ition(?:al|s)?)?_?(?:emb(?:ed(?:ding)?s?|d)?|enc(?:oding)?s?|tables?)"
    r"|emb(?:ed(?:ding)?s?)?_?positions?"
    r"|w[pt]?pe|inv_freqs?|freqs?(?:_(?:cis|cos|sin))?|rotary\w*|rope\w*"
    r")(?:$|[._])",
    re.IGNORECASE,
)
"""Names by which tables of positions are known, as a part of a dotted name."""


@dataclass(frozen=True)
class Found:
    """A tensor at or below the selected sites.

    Attributes:
        name: its first dotted name.
        tensor: the tensor.
        buffer: whether it is a buffer.
        persistent: False for a buffer that is in no checkpoint.
    """

    name: str
    tensor: Tensor
    buffer: bool
    persistent: bool


def stays(found: Found, to: dtype) -> Why | None:
    """Say why a tensor stays as it is; None where it is cast.

    A table is cast where that loses nothing: to a dtype that holds each of its numbers.

    Args:
        found: the tensor.
        to: the new dtype.
    """
    import torch

    now = found.tensor.dtype
    if now.is_complex:
        return "complex"
    if not now.is_floating_point or now.itemsize < 2:
        return "other"
    if torch.promote_types(now, to) == to:
        return None
    if found.buffer and not found.persistent:
        return "table"
    return "position" if is_position(found.name) else None


def is_position(name: str) -> bool:
    """Tell whether the end of a dotted name says that a tensor holds positions."""
    return POSITION.search(".".join(name.split(".")[-2:])) is not None


def chosen(
    tensors: Iterable[Found], to: dtype, tables: Iterable[str], keep: Iterable[str]
) -> tuple[list[Found], Mapping[str, tuple[Found, Why]]]:
    """Divide tensors into those that are cast and those that stay.

    Args:
        tensors: all at and below the selected sites.
        to: the new dtype.
        tables: globs of names that are cast though they are tables.
        keep: globs of names that stay.

    Returns:
        Those that are cast, and by name those that stay and why.

    Raises:
        RefusedError: a glob matches nothing, or asks for what no real dtype holds.
    """
    known = list(tensors)
    named = _matched("tables", tables, known)
    left = _matched("keep", keep, known)
    cast: list[Found] = []
    kept: dict[str, tuple[Found, Why]] = {}
    for one in known:
        why: Why | None = "asked" if one.name in left else stays(one, to)
        if one.name in named and why in ("complex", "other", "asked"):
            raise _cannot(one, why)
        if why is None or one.name in named:
            cast.append(one)
        else:
            kept[one.name] = (one, why)
    return [one for one in cast if one.tensor.dtype != to], kept


def _matched(option: str, globs: Iterable[str], known: Iterable[Found]) -> frozenset[str]:
    names, found = [one.name for one in known], set[str]()
    for glob in globs:
        regex = any_of([glob_regex(glob, f"cast.{option}")])
        now = {name for name in names if regex.fullmatch(name)}
        if not now:
            raise RefusedError(
                f"cast.{option}: {glob}", "a glob that matches a tensor at or below the sites",
                f"no match among {len(names)}", did_you_mean(glob, names),
            )  # fmt: skip
        found |= now
    return frozenset(found)


def _cannot(one: Found, why: str) -> RefusedError:
    dtype = str(one.tensor.dtype).removeprefix("torch.")
    if why == "asked":
        return RefusedError(f"cast.tables: {one.name}", "a name that keep does not match", "both")
    return RefusedError(
        f"cast.tables: {one.name}", "real floating numbers of two bytes or more", dtype,
        "the imaginary part would be lost" if why == "complex" else "narrow the glob",
    )  # fmt: skip
