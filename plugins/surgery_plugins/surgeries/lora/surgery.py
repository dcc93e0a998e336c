"""The surgery ``lora``: low-rank adapters beside frozen weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from surgery.anatomy.glob import glob_regex
from surgery.anatomy.site import Site
from surgery.anatomy.tree import paths_of
from surgery.errors import RefusedError, did_you_mean
from surgery.operate.edits import Edit, Extend, SetTrainable
from surgery.operate.surgery import AtInit, Surgery
from surgery_plugins.surgeries.lora.branch import Branch, branch_of
from surgery_plugins.surgeries.lora.initialisers.choice import Choice
from surgery_plugins.surgeries.lora.initialisers.drawn import Kaiming
from surgery_plugins.surgeries.lora.places import (
    Place,
    check_alone,
    check_dropout,
    largest_rank,
    place_of,
    why_not,
)
from surgery_plugins.surgeries.lora.values import Beginning, Rest, rewritten

if TYPE_CHECKING:
    from surgery.checkpoint.pair import Pair
    from surgery.operate.behaviour import Behaviour
    from surgery.operate.expressing import Expressed, Limits, Watch
    from surgery.operate.patient import Patient

_Rank = Annotated[int, Field(gt=0)]
_Alpha = Annotated[float, Field(gt=0)]


class Lora(Surgery):
    """Place low-rank adapters beside weights; the base keeps its names and its bits.

    LoRA: arXiv 2106.09685. Rank-stabilised scale: arXiv 2312.03732. DoRA: arXiv 2402.09353.
    """

    name: ClassVar[str] = "lora"
    identity_at_init: ClassVar[bool] = True
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"at": {"role": ["attention.q", "attention.v"]}, "with": {"rank": 2}},
        {"at": {"type": ["Linear", "Conv2d"]}, "with": {"rank": 2, "bias": "all", "rslora": True}},
        {"at": {"role": "mlp.down"}, "with": {"rank": 2, "dora": True, "init": "gaussian"}},
    )

    rank: _Rank = Field(default=8, description="Rank r of the adapters.")
    alpha: _Alpha | None = Field(
        default=None, description="Numerator of the scale alpha / r; by default the rank, scale 1."
    )
    rank_pattern: dict[str, _Rank] = Field(
        default_factory=dict, description="Other ranks, by path glob or role."
    )
    alpha_pattern: dict[str, _Alpha] = Field(
        default_factory=dict, description="Other alphas, by path glob or role."
    )
    rslora: bool = Field(default=False, description="Scale by alpha / sqrt(r) (arXiv 2312.03732).")
    dora: bool = Field(
        default=False, description="Train the length of each row apart from its direction."
    )
    dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="Share of input features that training drops."
    )
    bias: Literal["none", "lora", "all"] = Field(
        default="none", description="Biases to train: none, those of adapted modules, or all."
    )
    adapter: str = Field(
        default="default", pattern=r"^[a-z][a-z0-9]*$", description="Name of the adapter."
    )
    init: Choice = Field(
        default=Kaiming(),
        description="How the adapters begin: the name of an initialiser, or its name under `use` "
        "and its options. The first four draw, pissa and olora take a part of the base, loftq "
        "what rounding the base loses, eva the directions of sample inputs.",
    )

    @property
    def at_init(self) -> AtInit:
        """What the outputs are before training: what the initialiser promises."""
        return self.init.at_init

    def refuse(self, site: Site) -> str | None:
        """Refuse what has no matrix, and options that a kind of weight cannot follow."""
        rank = self._pattern(self.rank_pattern, site, self.rank)
        if self.bias == "lora" and site.part is not None:
            return "its bias belongs to other rows too; set bias to 'none'"
        return why_not(site, self.dora) or self.init.refuse(site, rank)

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Give one extension for each site, and what the base keeps where it gives something."""
        from surgery_plugins.surgeries.lora.observe import Observation

        self._check_patterns(sites)
        modules = dict(paths_of(patient.model))
        beginning = Beginning(self.init, Observation(patient))
        for group in _by_weight(sites):
            rests: list[Rest] = []
            for site in group:
                place = place_of(site, modules)
                if self.dropout:
                    check_dropout(place, self.dropout)
                extend, rest = self._extend(site, place, beginning)
                yield extend
                rests += [rest] if rest else []
                if self.bias == "lora" and place.bias:
                    yield SetTrainable(f"{place.path}.{place.bias}", trainable=True)
            if rests:
                check_alone(place, patient.model)
                yield rewritten(place, rests)
        if self.bias == "all":
            yield from _all_biases(patient)

    def notes(self, sites: Sequence[Site], patient: Patient) -> Iterable[str]:
        """Say where the rank is larger than a weight's own: it costs and adds nothing."""
        for site in sites:
            rank = self._pattern(self.rank_pattern, site, self.rank)
            if rank > (most := largest_rank(site)):
                yield f"{site.path}: rank {rank} is more than the {most} that its weight can have"

    @classmethod
    def express(
        cls,
        changes: Sequence[tuple[Site, Pair]],
        patient: Patient,
        limits: Limits,
        watch: Watch,
    ) -> Expressed:
        """Express changes of weights as adapters of scale 1."""
        from surgery_plugins.surgeries.lora.extract import express

        return express(cls, changes, patient, limits, watch)

    def _extend(self, site: Site, place: Place, beginning: Beginning) -> tuple[Extend, Rest | None]:
        names = _names(self.adapter, site, place)
        branch = self._branch(site, place, "_".join(names))
        tensors, rest = beginning.of(branch, place)
        if rest:
            branch = replace(branch, residual=True)
        behaviour = _beside if branch.beside else partial(_effective, branch.leaf)
        name, reads = ".".join(names), (place.parameter,)
        return Extend(place.path, name, behaviour, branch, tensors, reads=reads), rest

    def _branch(self, site: Site, place: Place, stem: str) -> Branch:
        rank = self._pattern(self.rank_pattern, site, self.rank)
        if rank % place.groups:
            raise RefusedError(
                f"{site.path} (lora)",
                f"a rank that its {place.groups} groups divide, since each group has its own part",
                f"rank {rank}",
                "give it such a rank in rank_pattern, or exclude it",
            )
        alpha = self._pattern(self.alpha_pattern, site, self.alpha) or float(rank)
        part = site.part
        return branch_of(
            self.adapter,
            place.kind,
            place.leaf,
            stem,
            self.dora,
            rank,
            alpha,
            alpha / (sqrt(rank) if self.rslora else rank),
            self.dropout,
            place.out_axis,
            part or "",
            site.rows[part] if part else (),
            place.beside,
        )

    def _pattern(self, patterns: Mapping[str, Any], site: Site, default: Any) -> Any:
        for pattern, value in patterns.items():
            if _meets(pattern, site):
                return value
        return default

    def _check_patterns(self, sites: Sequence[Site]) -> None:
        for pattern in (*self.rank_pattern, *self.alpha_pattern):
            if not any(_meets(pattern, site) for site in sites):
                known = {role for site in sites for role in site.roles}
                raise RefusedError(
                    "lora.rank_pattern and alpha_pattern",
                    "patterns that meet a selected site",
                    f"{pattern!r}, which meets none of {len(sites)}",
                    did_you_mean(pattern, {*known, *(site.path for site in sites)}),
                )


def _by_weight(sites: Sequence[Site]) -> Iterable[list[Site]]:
    """Give the sites of each weight together."""
    groups: dict[str | None, list[Site]] = {}
    for site in sites:
        groups.setdefault(site.parameter, []).append(site)
    return groups.values()


def _names(adapter: str, site: Site, place: Place) -> list[str]:
    """Give what tells one adapter of a module from another: adapter, weight, part."""
    leaf = [place.leaf] if site.is_parameter or place.leaf != "weight" else []
    return ["lora", adapter, *leaf, *([site.part.rpartition(".")[2]] if site.part else [])]


def _meets(pattern: str, site: Site) -> bool:
    import re

    return pattern in site.roles or any(re.fullmatch(glob_regex(pattern), p) for p in site.paths)


def _all_biases(patient: Patient) -> Iterator[SetTrainable]:
    from surgery.operate.behaviour import base_parameters

    for name, _ in base_parameters(patient.model):
        if "bias" in name.rpartition(".")[2]:
            yield SetTrainable(name, trainable=True)


def _beside() -> type[Behaviour]:
    from surgery_plugins.surgeries.lora.runtime import LoraBeside

    return LoraBeside


def _effective(leaf: str) -> type[Behaviour]:
    from surgery.operate.effective import effective

    return effective(leaf)
