"""Make plain weights of weights that are stored in parts: weight and spectral norm, pruning.

Sources of the forms and formulas: ``torch.nn.utils.weight_norm``, ``.spectral_norm`` and
``.prune``, and ``torch.nn.utils.parametrizations``; the results have the bits that torch computes
on the CPU in eval mode.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from surgery.checkpoint.legacy.find import values_of
from surgery.checkpoint.strict import show
from surgery.checkpoint.writer import NewEntry
from surgery.errors import PatientError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

Entries: TypeAlias = Mapping[str, NewEntry]

WEIGHT, SPECTRAL, PRUNED = "weight norm", "spectral norm", "pruning"

_NEW = re.compile(r"(?P<head>(?:.*\.)?)parametrizations\.(?P<tensor>[^.]+)\.(?P<part>.+)")
_NEW_PARTS = {
    frozenset({"original0", "original1"}): WEIGHT,
    frozenset({"original", "0._u", "0._v"}): SPECTRAL,
}
_OLD = re.compile(r"(?P<name>(?:.*\.)?weight[^.]*)_(?P<part>g|v|u|orig|mask)")
_OLD_PARTS = {
    frozenset({"g", "v"}): WEIGHT,
    frozenset({"orig", "u", "v"}): SPECTRAL,
    frozenset({"orig", "mask"}): PRUNED,
}
_ORDER = {
    WEIGHT: (("g", "original0"), ("v", "original1")),
    SPECTRAL: (("orig", "original"), ("u", "0._u"), ("v", "0._v")),
    PRUNED: (("orig", ""), ("mask", "")),
}


@dataclass(frozen=True)
class Pair:
    """One weight that is stored in parts.

    Attributes:
        kind: ``weight norm``, ``spectral norm`` or ``pruning``.
        name: the weight's plain name.
        parts: the names of its parts, in the order of ``_ORDER``.
        modern: True for torch's parametrizations, False for its older hooks.
    """

    kind: str
    name: str
    parts: tuple[str, ...]
    modern: bool

    def to_json(self) -> dict[str, object]:
        """Give the pair as JSON values."""
        return {"kind": self.kind, "name": self.name, "parts": list(self.parts)}

    def respelled(self) -> dict[str, str]:
        """Give the names of the parts as torch's other spelling has them; none for pruning."""
        head, _, tensor = self.name.rpartition(".")
        stem = f"{head}." if head else ""
        return {
            part: f"{self.name}_{old}" if self.modern else f"{stem}parametrizations.{tensor}.{new}"
            for part, (old, new) in zip(self.parts, _ORDER[self.kind], strict=True)
            if new
        }


def pairs_of(entries: Entries) -> list[Pair]:
    """Find the weights that are stored in parts."""
    found = []
    for modern, pattern, known in ((True, _NEW, _NEW_PARTS), (False, _OLD, _OLD_PARTS)):
        for name, parts in _grouped(entries, pattern).items():
            kind = known.get(frozenset(parts))
            if kind and name not in entries and _fits(kind, entries, parts):
                listed = (parts[pair[0 if not modern else 1]] for pair in _ORDER[kind])
                found.append(Pair(kind, name, tuple(listed), modern))
    return sorted(found, key=lambda pair: pair.name)


def materialised(
    entries: Entries, pairs: list[Pair], axis: int | None = None
) -> dict[str, NewEntry]:
    """Put plain weights in the place of their parts; values are computed when they are written.

    Args:
        entries: the tensors by name.
        pairs: what ``pairs_of`` found.
        axis: the axis of spectral norms whose axis neither shapes nor values show.

    Raises:
        RecipeError: there is such a norm, and no axis was given.
    """
    gone = {part for pair in pairs for part in pair.parts}
    found = {name: entry for name, entry in entries.items() if name not in gone}
    for pair in pairs:
        parts = [entries[part] for part in pair.parts]
        whole = max(parts, key=lambda entry: prod(entry.shape))
        found[pair.name] = NewEntry(
            pair.name, whole.dtype, whole.shape, _produce(pair, parts, axis)
        )
    return found


def leftovers(entries: Entries) -> list[str]:
    """Name parts of parametrizations that are no known pair: shapes do not show what they do."""
    return sorted(name for name in entries if _NEW.fullmatch(name))


def refuse_leftovers(entries: Entries, where: str) -> None:
    """Refuse parametrizations that cannot be made plain.

    Raises:
        PatientError: there are some.
    """
    if left := leftovers(entries):
        raise PatientError(
            f"{where}: {show(left[0])}", "weight norm or spectral norm",
            f"another parametrization ({len(left)} tensors)",
            "call torch.nn.utils.parametrize.remove_parametrizations where it was written",
        )  # fmt: skip


def _grouped(entries: Entries, pattern: re.Pattern[str]) -> dict[str, dict[str, str]]:
    """Give the parts of each weight: their names by what they are."""
    groups: dict[str, dict[str, str]] = {}
    for name in entries:
        if found := pattern.fullmatch(name):
            plain = found["name"] if pattern is _OLD else found["head"] + found["tensor"]
            groups.setdefault(plain, {})[found["part"]] = name
    return groups


def _fits(kind: str, entries: Entries, parts: Mapping[str, str]) -> bool:
    """Tell whether the shapes of parts are those of their kind."""
    shapes = {part: entries[name].shape for part, name in parts.items()}
    if kind == WEIGHT:
        whole = shapes.get("v", shapes.get("original1", ()))
        return norm_axis(shapes.get("g", shapes.get("original0", ())), whole) is not None
    whole = shapes.get("orig", shapes.get("original", ()))
    if kind == PRUNED:
        return whole == shapes["mask"]
    left, right = shapes.get("u", shapes.get("0._u")), shapes.get("v", shapes.get("0._v"))
    return len(left or ()) == len(right or ()) == 1 and bool(_axes(whole, left or (), right or ()))


def norm_axis(length: tuple[int, ...], whole: tuple[int, ...]) -> int | None:
    """Give the axis that a weight norm keeps, from the shapes of its length and direction.

    Returns:
        The axis; -1 where the length is one number; None where the shapes are no weight norm's.
    """
    if not length or not whole:
        return None if length or not whole else -1
    if len(length) != len(whole):
        return None
    kept = [axis for axis, size in enumerate(length) if size != 1]
    if not kept:
        return whole.index(1) if 1 in whole else None
    return kept[0] if len(kept) == 1 and length[kept[0]] == whole[kept[0]] else None


def _axes(whole: tuple[int, ...], left: tuple[int, ...], right: tuple[int, ...]) -> list[int]:
    """Give the axes of a weight whose rows and columns could be the vectors of a spectral norm."""
    if prod(left) * prod(right) != prod(whole):
        return []
    return [axis for axis, size in enumerate(whole) if (size,) == left]


def _produce(pair: Pair, parts: list[NewEntry], axis: int | None) -> Callable[[], Tensor]:
    if pair.kind == WEIGHT:
        return partial(_weight_norm, *parts)
    if pair.kind == PRUNED:
        return partial(_pruned, *parts)
    weight, left, right = parts
    return partial(_spectral_norm, weight, left, right, _spectral_axis(pair, parts, axis))


def _weight_norm(length: NewEntry, direction: NewEntry) -> Tensor:
    """Compute v * g / |v|, the norm over all axes but the one that g keeps."""
    import torch

    axis = norm_axis(length.shape, direction.shape)
    assert axis is not None
    g, v = values_of(length), values_of(direction)
    return torch._weight_norm(v, g if axis >= 0 else g.reshape(()), axis).reshape(direction.shape)


def _pruned(weight: NewEntry, mask: NewEntry) -> Tensor:
    """Compute the weight with its pruned elements set to zero."""
    values = values_of(weight)
    return values_of(mask).to(values.dtype) * values


def _spectral_norm(weight: NewEntry, left: NewEntry, right: NewEntry, axis: int) -> Tensor:
    """Compute W / (u · W v), W with its axis in front taken as a matrix."""
    import torch

    values = values_of(weight)
    u, v = (values_of(part).to(values.dtype) for part in (left, right))
    return values / torch.dot(u, torch.mv(_matrix(values, axis), v))


def _matrix(values: Tensor, axis: int) -> Tensor:
    return values.movedim(axis, 0).reshape(values.shape[axis], -1)


def _misfit(values: Tensor, u: Tensor, v: Tensor, axis: int) -> float:
    """Tell how far u and v are from what the last step of power iteration leaves.

    That step makes W v a multiple of u, or Wᵀ u one of v, whichever it computes last.

    Returns:
        The length of the rest, in parts of the singular value.
    """
    import torch

    matrix = _matrix(values, axis)
    across, along = torch.mv(matrix, v), torch.mv(matrix.T, u)
    sigma = torch.dot(u, across)
    rest = min(torch.linalg.vector_norm(x).item() for x in (across - sigma * u, along - sigma * v))
    return float(rest / max(abs(sigma.item()), 1e-30))


_NEAR, _FAR = 0.02, 0.1
"""Of two axes one is certain if its vectors fit better than the first and the other's do not."""


def _spectral_axis(pair: Pair, parts: list[NewEntry], given: int | None) -> int:
    """Find the axis of a spectral norm: by shapes, else by the values of its vectors, else given.

    After power iteration W v is a multiple of u for the right axis only.
    """
    axes = list(_likely_axes(parts))
    if len(axes) == 1:
        return axes[0]
    if given is None or given not in axes:
        wanted = f"the axis of the spectral norm of {show(pair.name)}, out of {axes}"
        found = "none given, and shapes and values do not show it" if given is None else str(given)
        raise RecipeError("--spectral-axis", wanted, found, "0, or 1 for transposed convolutions")
    return given


def _likely_axes(parts: list[NewEntry]) -> Iterator[int]:
    axes = _axes(parts[0].shape, parts[1].shape, parts[2].shape)
    if len(axes) == 1:
        yield from axes
        return
    weight, left, right = (values_of(part).float() for part in parts)
    rests = {axis: _misfit(weight, left, right, axis) for axis in axes}
    near = [axis for axis, rest in rests.items() if rest < _NEAR]
    certain = len(near) == 1 and all(rests[axis] > _FAR for axis in axes if axis not in near)
    yield from near if certain else axes
