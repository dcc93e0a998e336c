"""Express the change of weights as low-rank adapters, by its singular values.

The best approximation of a rank is the leading part of the singular value decomposition (Eckart
and Young, Psychometrika 1936); A and B each take the square root of the singular values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import isfinite, prod, sqrt
from typing import TYPE_CHECKING, Any

import torch

from surgery.anatomy.site import Site
from surgery.checkpoint.measure import length
from surgery.checkpoint.pair import Pair
from surgery.checkpoint.spectrum import Matrix, Spectrum, holding, leading
from surgery.errors import RefusedError
from surgery.operate.edits import Edit, Extend
from surgery.operate.expressing import Expressed, Fit, Limits, Watch
from surgery_plugins.surgeries.lora.arithmetic import rows_index
from surgery_plugins.surgeries.lora.branch import CONV, Branch
from surgery_plugins.surgeries.lora.places import Place, place_of

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.anatomy.site import RowRange
    from surgery.operate.patient import Patient
    from surgery_plugins.surgeries.lora.surgery import Lora

HELD = 1 << 25
"""Elements of the largest change that is held in memory; larger ones are read at each pass."""


@dataclass(frozen=True)
class Part:
    """One matrix of a weight's change, as the weight lays it out, and its leading part.

    Attributes:
        matrix: the change.
        found: its leading singular values and vectors.
        turned: True where the rows of the matrix are inputs.
    """

    matrix: Matrix
    found: Spectrum
    turned: bool

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Give A ``[rank, in]`` and B ``[out, rank]``; rows beyond those found are zero."""
        found, roots = self.found.cut(rank), self.found.s[:rank].sqrt()
        inner, outer = (found.u, found.v) if self.turned else (found.v, found.u)
        lacking = rank - len(roots)
        a = torch.nn.functional.pad((inner * roots).mT, (0, 0, 0, lacking))
        return a, torch.nn.functional.pad(outer * roots, (0, lacking))

    def missed(self, a: Tensor, b: Tensor) -> tuple[float, float]:
        """Give the energy that ``B A`` misses, and that of the change."""
        left, right = (a.mT, b.mT) if self.turned else (b, a)
        start, missed, energy = 0, 0.0, 0.0
        for block in self.matrix.blocks():
            missed += length(block - left[start : start + len(block)] @ right) ** 2
            energy += length(block) ** 2
            start += len(block)
        return missed, energy


def express(
    cls: type[Lora],
    changes: Sequence[tuple[Site, Pair]],
    patient: Patient,
    limits: Limits,
    watch: Watch,
) -> Expressed:
    """Express changes as adapters of scale 1; see ``Expressing.express``.

    Args:
        cls: the surgery.
        changes: the sites, and the weight of each before and after.
        patient: the base's structure.
        limits: the rank, or the energy that decides it for each weight.
        watch: called after each change.

    Raises:
        RefusedError: a change is not finite.
    """
    modules = dict(patient.model.named_modules(remove_duplicate=False))
    sites = [site for site, _ in changes]
    places = [place_of(site, modules) for site in sites]
    parts = []
    for (site, pair), place in zip(changes, places, strict=True):
        parts.append(_parts(site, place, pair, limits))
        watch(len(parts), len(changes))
    surgery = _surgery(cls, sites, places, parts)
    edits = {_key(edit): edit for edit in surgery.operate(sites, patient) if _places(edit)}
    values: dict[str, Tensor] = {}
    fits = []
    for site, place, found in zip(sites, places, parts, strict=True):
        made, fit = _fitted(site, edits[place.path, place.leaf, site.part or ""], found)
        values.update(made)
        fits.append(fit)
    return Expressed(surgery, values, tuple(fits))


def _places(edit: Edit) -> bool:
    return isinstance(edit, Extend) and isinstance(edit.settings, Branch)


def _key(edit: Any) -> tuple[str, str, str]:
    """Tell adapters apart: by module, weight and part."""
    return edit.path, edit.settings.leaf, edit.settings.part


def _parts(site: Site, place: Place, pair: Pair, limits: Limits) -> list[Part]:
    """Decompose each matrix of a weight's change: one, or one for each expert or group."""
    turned = place.kind != CONV and place.out_axis == len(place.shape) - 1
    ranges = site.rows[site.part] if site.part else ()
    found = []
    for whole in _matrices(place, pair, ranges, turned):
        matrix = whole.held() if whole.rows * whole.columns <= HELD else whole
        found.append(Part(matrix, _leading(site, matrix, limits), turned))
    return found


def _leading(site: Site, matrix: Matrix, limits: Limits) -> Spectrum:
    energy = matrix.energy()
    if not isfinite(energy):
        raise RefusedError(
            f"{site.path} (lora)", "a finite change", "NaN or infinity", "exclude it"
        )
    if limits.rank is not None:
        return leading(matrix, limits.rank)
    return holding(matrix, limits.energy or 1.0, energy)


def _matrices(
    place: Place, pair: Pair, ranges: tuple[RowRange, ...], turned: bool
) -> Iterator[Matrix]:
    """Give the adapted rows of each matrix of a change, as the weight lays them out."""
    shape = place.shape
    if place.kind == CONV:
        rows, columns, count = shape[0] // place.groups, prod(shape[1:]), place.groups
    else:
        rows, columns, count = shape[-2], shape[-1], prod(shape[:-2])
    for number in range(count):
        first = number * rows * columns
        if turned and ranges:
            blocks = partial(_columns, pair, first, (rows, columns), ranges)
            yield Matrix(rows, _length(ranges), blocks)
        else:
            chosen = ranges or ((0, rows),)
            yield Matrix(_length(chosen), columns, partial(_rows, pair, first, columns, chosen))


def _rows(pair: Pair, first: int, columns: int, ranges: tuple[RowRange, ...]) -> Iterator[Tensor]:
    return chain.from_iterable(
        pair.rows(first + start * columns, stop - start, columns) for start, stop in ranges
    )


def _columns(
    pair: Pair, first: int, size: tuple[int, int], ranges: tuple[RowRange, ...]
) -> Iterator[Tensor]:
    index = rows_index(ranges, torch.device("cpu"))
    return (block[:, index] for block in pair.rows(first, *size))


def _length(ranges: tuple[RowRange, ...]) -> int:
    return sum(stop - start for start, stop in ranges)


def _surgery(
    cls: type[Lora], sites: Sequence[Site], places: Sequence[Place], parts: Sequence[list[Part]]
) -> Lora:
    """Give the surgery with the rank of each path: the largest of the matrices there."""
    ranks: dict[str, int] = {}
    for site, place, found in zip(sites, places, parts, strict=True):
        rank = max(len(part.found.s) for part in found) * place.groups
        ranks[site.path] = max(rank, ranks.get(site.path, 0))
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {path: rank for path, rank in ranks.items() if rank != usual}
    return cls(rank=usual, rank_pattern=others)


def _fitted(site: Site, edit: Any, parts: list[Part]) -> tuple[Mapping[str, Tensor], Fit]:
    """Give the tensors of one adapter, as they are stored, and how close they come."""
    branch = edit.settings
    rank: int = branch.rank
    each = rank // len(parts) if branch.kind == CONV else rank
    factors = [part.factors(each) for part in parts]
    a, b = (torch.stack(ones) for ones in zip(*factors, strict=True))
    new = {branch.a: a, branch.b: b}
    values = {
        f"{edit.path}.{name}".removeprefix("."): new[name]
        .reshape(made.shape)
        .to(getattr(torch, made.dtype))
        for name, made in edit.tensors.items()
    }
    sums = [part.missed(*pair) for part, pair in zip(parts, factors, strict=True)]
    missed, energy = sum(one for one, _ in sums), sum(one for _, one in sums)
    path = f"{site.path} {site.part}" if site.part else site.path
    error = sqrt(missed / energy) if energy else 0.0
    return values, Fit(path, site.shape, rank, error, sqrt(energy))
