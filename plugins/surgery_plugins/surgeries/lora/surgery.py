"""The surgery ``lora``: low-rank adapters beside frozen weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from surgery.anatomy.glob import glob_regex
from surgery.anatomy.site import Site
from surgery.errors import RefusedError, did_you_mean
from surgery.operate.edits import Edit, Extend, SetTrainable
from surgery.operate.surgery import Surgery
from surgery_plugins.surgeries.lora.branch import TABLE, Branch
from surgery_plugins.surgeries.lora.places import Place, place_of, why_not
from surgery_plugins.surgeries.lora.values import tensors_of

if TYPE_CHECKING:
    from surgery.operate.behaviour import Behaviour
    from surgery.operate.patient import Patient

_Rank = Annotated[int, Field(gt=0)]
_Alpha = Annotated[float, Field(gt=0)]


class Lora(Surgery):
    """Place low-rank adapters beside weights; the base keeps its names and its bits.

    LoRA: arXiv 2106.09685. Rank-stabilised scale: arXiv 2312.03732. DoRA: arXiv 2402.09353.
    """

    name: ClassVar[str] = "lora"
    identity_at_init: ClassVar[bool] = True

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
    bias: Literal["none", "adapted", "all"] = Field(
        default="none", description="Biases to train: none, those of adapted modules, or all."
    )
    adapter: str = Field(
        default="default", pattern=r"^[a-z][a-z0-9]*$", description="Name of the adapter."
    )
    init: Literal["kaiming", "gaussian"] = Field(
        default="kaiming", description="How A is drawn; B is zero, so the outputs do not change."
    )

    def refuse(self, site: Site) -> str | None:
        """Refuse what has no matrix, or one too small for the rank."""
        return why_not(site, self._pattern(self.rank_pattern, site, self.rank), self.dora)

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Give one extension for each site."""
        self._check_patterns(sites)
        modules = dict(patient.model.named_modules(remove_duplicate=False))
        for site in sites:
            place = place_of(site, modules)
            if self.dropout and not place.beside:
                raise RefusedError(
                    f"{site.path} (lora)",
                    "dropout 0, because the weight is read without its module being called",
                    f"dropout {self.dropout}",
                    "set dropout to 0 for this step, or exclude the site",
                )
            yield self._extend(site, place)
            if self.bias == "adapted" and place.bias:
                yield SetTrainable(f"{place.path}.bias", trainable=True)
        if self.bias == "all":
            yield from _all_biases(patient)

    def _extend(self, site: Site, place: Place) -> Extend:
        branch = self._branch(site, place)
        tensors = tensors_of(branch, place, self.init, self.dora)
        behaviour = _beside if branch.beside else partial(_effective, branch.leaf)
        name = branch.a.removesuffix("_A")
        return Extend(place.path, name, behaviour, branch, tensors, reads=(place.parameter,))

    def _branch(self, site: Site, place: Place) -> Branch:
        rank = self._pattern(self.rank_pattern, site, self.rank)
        if rank % place.groups:
            raise RefusedError(
                f"{site.path} (lora)",
                f"a rank that its {place.groups} groups divide, since each group has its own part",
                f"rank {rank}",
                "give it such a rank in rank_pattern, or exclude it",
            )
        alpha = self._pattern(self.alpha_pattern, site, self.alpha) or float(rank)
        stem = f"lora_{self.adapter}"
        if place.kind == TABLE or place.leaf != "weight":
            stem += f"_{place.leaf}"
        if site.part:
            stem += f"_{site.part.rpartition('.')[2]}"
        return Branch(
            adapter=self.adapter,
            kind=place.kind,
            leaf=place.leaf,
            a=f"{stem}_A",
            b=f"{stem}_B",
            m=f"{stem}_M" if self.dora else "",
            rank=rank,
            alpha=alpha,
            scale=alpha / (sqrt(rank) if self.rslora else rank),
            dropout=self.dropout,
            out_axis=place.out_axis,
            part=site.part or "",
            ranges=site.rows[site.part] if site.part else (),
            beside=place.beside and not (self.dora and place.kind != "linear")
            and not (self.dora and site.part is not None),
        )  # fmt: skip

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


def _meets(pattern: str, site: Site) -> bool:
    import re

    return pattern in site.roles or any(re.fullmatch(glob_regex(pattern), p) for p in site.paths)


def _all_biases(patient: Patient) -> Iterator[SetTrainable]:
    from surgery.operate.behaviour import base_parameters

    for name, _ in base_parameters(patient.model):
        if name.rpartition(".")[2] == "bias":
            yield SetTrainable(name, trainable=True)


def _beside() -> type[Behaviour]:
    from surgery_plugins.surgeries.lora.runtime import LoraBeside

    return LoraBeside


def _effective(leaf: str) -> type[Behaviour]:
    from surgery.operate.effective import effective

    return effective(leaf)
