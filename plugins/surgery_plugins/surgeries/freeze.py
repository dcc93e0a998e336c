"""Freeze and unfreeze: which tensors take gradients, and which modules stay in eval mode."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from surgery.anatomy.site import RowRange, Site
from surgery.errors import RefusedError
from surgery.operate.edits import Derive, Edit, Extend, HoldEval, NewTensor, SetTrainable
from surgery.operate.surgery import Surgery

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from surgery.operate.behaviour import Behaviour
    from surgery.operate.patient import Patient
    from surgery.operate.stretches import Stretches


class Freeze(Surgery):
    """Stop gradients to the selected tensors, adapters excepted, and hold modules in eval mode."""

    name: ClassVar[str] = "freeze"
    identity_at_init: ClassVar[bool] = True
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"at": {"role": "norm"}},
        {"at": {"match": ".*norm.*", "type": "Module"}, "with": {"eval_mode": True}},
    )

    eval_mode: bool = Field(
        default=False,
        description="Also keep the selected modules in eval mode, whatever train() a parent calls.",
    )

    def refuse(self, site: Site) -> str | None:
        """Refuse parts of a fused weight: gradients flow to whole tensors."""
        if site.part is not None:
            return f"{site.part} is only some rows; use `unfreeze` for the rows that shall train"
        return None

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Freeze the base tensors of every site, and below it.

        Raises:
            RefusedError: modules shall stay in eval mode, and the sites are raw parameters alone.
        """
        for name in _names(sites, patient):
            yield SetTrainable(name, trainable=False)
        if self.eval_mode:
            yield from map(HoldEval, _modules(sites))


class Unfreeze(Surgery):
    """Let gradients flow to the selected tensors, or to some rows of them alone."""

    name: ClassVar[str] = "unfreeze"
    identity_at_init: ClassVar[bool] = True
    narrows: ClassVar[frozenset[str]] = frozenset(("freeze",))
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"at": {"role": "attention.q"}, "after": [{"use": "freeze"}]},
        {"at": {"role": "embedding"}, "with": {"rows": "3-5"}},
    )

    rows: str | None = Field(
        default=None,
        description="Only these rows of axis 0, such as '30522-30525,7'; the tensor itself stays "
        "frozen and the rows train in a tensor of their own.",
    )

    @field_validator("rows")
    @classmethod
    def _readable(cls, rows: str | None) -> str | None:
        if rows is not None:
            parse_rows(rows)
        return rows

    def refuse(self, site: Site) -> str | None:
        """Refuse rows of sites that have none, or not so many."""
        if self.rows is None and site.part is None:
            return None
        if site.parameter is None or len(site.shape) < 2:
            return "it has no weight with rows"
        if site.is_parameter:
            return "rows of a raw parameter cannot be trained alone"
        last = max(stop for _, stop in self._ranges(site))
        if last > site.shape[0]:
            return f"it has {site.shape[0]} rows, numbered from 0, and row {last - 1} was asked for"
        return None

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Unfreeze whole tensors, or place the rows to train beside the frozen ones."""
        whole = [site for site in sites if self.rows is None and site.part is None]
        for name in _names(whole, patient):
            yield SetTrainable(name, trainable=True)
        tied: dict[tuple[int, str | None], Site] = {}
        for site in (site for site in sites if site not in whole):
            weight = patient.model.get_parameter(str(site.parameter))
            tied.setdefault((id(weight), site.part), site)
        for site in tied.values():
            yield from self._train_rows(site, patient)

    def _ranges(self, site: Site) -> tuple[RowRange, ...]:
        return parse_rows(self.rows) if self.rows is not None else site.rows[str(site.part)]

    def _train_rows(self, site: Site, patient: Patient) -> Iterator[Edit]:
        assert site.parameter is not None
        ranges, leaf = self._ranges(site), site.parameter.rpartition(".")[2]
        count = sum(stop - start for start, stop in ranges)
        dtype = str(patient.model.get_parameter(site.parameter).dtype).removeprefix("torch.")
        name = f"rows_{leaf}" + (f"_{site.part.rpartition('.')[2]}" if site.part else "")
        rows = NewTensor((count, *site.shape[1:]), dtype, Derive((site.parameter,), _Take(ranges)))
        yield SetTrainable(site.parameter, trainable=False)
        first, *tied = _holders(site.parameter, patient.model)
        settings = RowSettings(leaf, name, ranges)
        yield Extend(
            first[0],
            name,
            partial(_effective, first[1]),
            replace(settings, leaf=first[1]),
            tensors={name: rows},
            reads=(site.parameter,),
        )
        for path, other in tied:
            yield Extend(
                path,
                name,
                partial(_effective, other),
                replace(settings, leaf=other),
                shares={name: f"{first[0]}.{name}"},
                reads=(site.parameter,),
            )


def parse_rows(text: str) -> tuple[RowRange, ...]:
    """Read row numbers such as ``3-5,9`` as half-open ranges.

    Raises:
        ValueError: the text is no such list, or its ranges overlap.
    """
    ranges = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        if not found:
            raise ValueError(f"expected rows such as '3-5,9', got {text!r}")
        ranges.append((int(found[1]), int(found[2] or found[1]) + 1))
    ranges.sort()
    if any(a >= b for a, b in ranges) or any(a[1] > b[0] for a, b in pairwise(ranges)):
        raise ValueError(f"expected rising ranges that do not overlap, got {text!r}")
    return tuple(ranges)


@dataclass(frozen=True)
class RowSettings:
    """Show the trained rows in place of the frozen ones.

    Attributes:
        leaf: name of the weight in its module.
        rows: name of the tensor of trained rows, ``(number of rows, ...)``.
        ranges: which rows of the weight they are.
    """

    leaf: str
    rows: str
    ranges: tuple[RowRange, ...]

    def effective(self, module: nn.Module, weight: Tensor) -> Tensor:
        """Give the weight with the trained rows in their places."""
        trained = module._parameters[self.rows]
        assert trained is not None
        pieces, done, start = [], 0, 0
        for first, stop in self.ranges:
            pieces += [weight[start:first], trained[done : done + stop - first]]
            done, start = done + stop - first, stop
        return _cat([*pieces, weight[start:]])

    def factors(self) -> tuple[str, ...]:
        """Give the name of the tensor of trained rows."""
        return (self.rows,)

    @staticmethod
    def fold(
        weight: Stretches,
        extensions: Sequence[tuple[RowSettings, Sequence[Tensor]]],
        generator: Generator,
    ) -> Iterator[tuple[Tensor, float]]:
        """Give the weight with the trained rows in their places; of two, the later one wins.

        Rows are copied, nothing is rounded.
        """
        done = 0
        for old in weight.in_rows():
            rows, stop = old.clone(), done + len(old)
            for one, (trained,) in extensions:
                for first, last, at in _within(one.ranges, done, stop):
                    rows[first - done : last - done] = trained[at : at + last - first]
            done = stop
            yield rows, 0.0


def _within(ranges: Iterable[RowRange], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Give the parts of ranges between two rows: first, last, and number of the first's values."""
    done = 0
    for low, high in ranges:
        first, last = max(low, start), min(high, stop)
        if first < last:
            yield first, last, done + first - low
        done += high - low


@dataclass(frozen=True)
class _Take:
    ranges: tuple[RowRange, ...]

    def __call__(self, weight: Tensor, generator: Generator) -> Tensor:
        return _cat([weight[start:stop] for start, stop in self.ranges])


def _effective(leaf: str) -> type[Behaviour]:
    from surgery.operate.effective import effective

    return effective(leaf)


def _cat(pieces: list[Tensor]) -> Tensor:
    """Concatenate along axis 0."""
    import torch

    return torch.cat(pieces)


def _names(sites: Sequence[Site], patient: Patient) -> Iterator[str]:
    """Give the base parameters at and below the sites, each once, in the model's order."""
    from surgery.operate.behaviour import base_parameters

    wanted = {site.path for site in sites}
    whole = {name for site in sites if site.is_parameter for name in site.paths}
    for name, _ in base_parameters(patient.model):
        if name in whole or any(path in wanted for path in _ancestors(name)):
            yield name


def _holders(name: str, model: nn.Module) -> list[tuple[str, str]]:
    """Give path and leaf of every place that holds a parameter, the named one first."""
    path, _, leaf = name.rpartition(".")
    held = model.get_parameter(name)
    found = [
        (other, key)
        for other, module in model.named_modules()
        for key, parameter in module._parameters.items()
        if parameter is held
    ]
    return sorted(found, key=lambda place: place != (path, leaf))


def _ancestors(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


def _modules(sites: Sequence[Site]) -> Iterable[str]:
    """Give the outermost modules among sites; a raw parameter has no mode."""
    paths = [site.path for site in sites if not site.is_parameter]
    if not paths:
        raise RefusedError(
            "freeze: eval_mode", "a module among the sites", "raw parameters alone",
            "select the module that holds them, or leave `eval_mode` out",
        )  # fmt: skip
    return _topmost(paths)


def _topmost(paths: Iterable[str]) -> Iterator[str]:
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(path == top or not top or path.startswith(top + ".") for top in kept):
            kept.append(path)
            yield path
