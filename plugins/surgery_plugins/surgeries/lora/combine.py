"""The surgery ``lora-combine``: one adapter made of several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from surgery.anatomy.site import Site
from surgery.errors import ConflictError, RefusedError, SelectionError, did_you_mean
from surgery.operate.edits import Derive, Edit, Extend, NewTensor
from surgery.operate.surgery import Surgery

if TYPE_CHECKING:
    from torch import nn

    from surgery.flow.memory import Applied
    from surgery.operate.patient import Patient
    from surgery_plugins.surgeries.lora.layout import Layout

How: TypeAlias = Literal[
    "linear", "cat", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties",
    "dare_ties_svd", "magnitude_prune", "magnitude_prune_svd",
]  # fmt: skip
"""How adapters are combined: A with A and B with B, side by side, or by what they add."""

_PLAIN = {"linear", "cat", "svd"}
"""Methods that drop no numbers."""

Group: TypeAlias = "list[tuple[str, nn.Module, Extend]]"
"""Adapters of the same rows of one weight: path and module, and the extension."""


class LoraCombine(Surgery):
    """Make one adapter of several, which stay; the new one is switched off and does not train.

    The formulas are those of PEFT's ``add_weighted_adapter``.
    """

    name: ClassVar[str] = "lora-combine"
    identity_at_init: ClassVar[bool] = True
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {
            "with": {"weights": {"law": 0.7, "code": 0.3}, "into": "both"},
            "after": [
                {
                    "use": "lora",
                    "at": {"role": "attention.q"},
                    "with": {"rank": 2, "adapter": one, "init": "gaussian"},
                }
                for one in ("law", "code")
            ],
        },
    )

    weights: dict[str, float] = Field(
        min_length=1, description="What each adapter is multiplied with, by its name."
    )
    into: str = Field(pattern=r"^[a-z][a-z0-9]*$", description="Name of the new adapter.")
    how: How = Field(
        default="svd",
        description="linear, ties, dare_linear, dare_ties and magnitude_prune mix A with A and B "
        "with B and want equal ranks; cat puts them side by side, which is exact; svd and what "
        "ends in it decompose what the adapters add to the weight.",
    )
    rank: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="Rank for svd; by default the largest of the adapters'."
    )
    density: float | None = Field(
        default=None, gt=0.0, le=1.0, description="Share of the numbers that ties, dare and "
        "magnitude_prune keep."
    )  # fmt: skip
    majority: Literal["total", "frequency"] = Field(
        default="total", description="How ties elects a sign: by the sum, or by the signs' sum."
    )
    seed: int = Field(default=0, ge=0, description="Seed of dare's drops.")

    @model_validator(mode="after")
    def _fits(self) -> LoraCombine:
        dropping = self.how not in _PLAIN
        if dropping and self.density is None:
            raise ValueError(f"expected density, which {self.how} needs, got none")
        if not dropping and self.density is not None:
            raise ValueError(f"expected no density, which {self.how} has no use for, got one")
        if self.rank is not None and not self.how.endswith("svd"):
            raise ValueError(f"expected no rank, which {self.how} has no use for, got one")
        if self.into in self.weights:
            raise ValueError(f"expected a new name under into, got {self.into!r}")
        return self

    def refuse(self, site: Site) -> str | None:
        """Refuse nothing: only sites with adapters are in scope."""
        return None

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the sites that have one of the adapters."""
        from surgery_plugins.surgeries.lora.adapters import adapter_names

        known = adapter_names(patient.model)
        for name in self.weights:
            if name not in known:
                hint = did_you_mean(name, known)
                raise SelectionError("lora-combine", "the name of an adapter", repr(name), hint)
        if self.into in known:
            raise ConflictError(
                "lora-combine", "a new name", repr(self.into), "choose another under `into`"
            )
        found = [site for site in sites if any(self._groups([site], patient.model))]
        self._check_all_there(found, patient.model)
        return found

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Give one extension for each weight, or rows of one, that has one of the adapters."""
        for group in self._groups(sites, patient.model):
            yield self._extend(group)

    def _groups(self, sites: Sequence[Site], model: nn.Module) -> Iterator[Group]:
        """Give the adapters of each weight, in the order of ``weights``."""
        groups: dict[tuple[Any, ...], Group] = {}
        wanted = {(site.parameter, site.part) for site in sites}
        for path, module, extend in _adapters(model, self.weights):
            branch = extend.settings
            weight = f"{path}.{branch.leaf}" if path else branch.leaf
            if {(weight, None), (weight, branch.part)} & wanted:
                key = (path, branch.leaf, branch.part, branch.ranges)
                groups.setdefault(key, []).append((path, module, extend))
        order = list(self.weights)
        for group in groups.values():
            yield sorted(group, key=lambda one: order.index(one[2].settings.adapter))

    def _check_all_there(self, sites: Sequence[Site], model: nn.Module) -> None:
        found = {e.settings.adapter for g in self._groups(sites, model) for _, _, e in g}
        for name in self.weights:
            if name not in found:
                raise SelectionError(
                    "lora-combine", f"sites with the adapter {name!r}", "none among those selected",
                    "select more under `at`",
                )  # fmt: skip

    def _extend(self, group: Group) -> Extend:
        from surgery_plugins.surgeries.lora.layout import adapter_layout

        path, module, first = group[0]
        layouts = tuple(adapter_layout(e.settings, module) for _, _, e in group)
        rank = self._rank(path, group, layouts)
        names = first.name.split(".")
        names[1] = self.into
        stem = "_".join(names)
        branch = replace(
            first.settings, adapter=self.into, a=f"{stem}_A", b=f"{stem}_B", rank=rank,
            alpha=float(rank), scale=1.0, active=False, factor=1.0,
        )  # fmt: skip
        tensors = self._tensors(path, group, layouts, adapter_layout(branch, module))
        return Extend(
            path, ".".join(names), first.behaviour, branch,
            dict(zip((branch.a, branch.b), tensors, strict=True)), reads=first.reads,
        )  # fmt: skip

    def _tensors(
        self, path: str, group: Group, layouts: tuple[Layout, ...], layout: Layout
    ) -> tuple[NewTensor, NewTensor]:
        from surgery_plugins.surgeries.lora.mixing import Combination, Mix

        branches = [extend.settings for _, _, extend in group]
        prefix = f"{path}." if path else ""
        old = tuple(prefix + name for branch in branches for name in (branch.a, branch.b))
        stem = "_".join([prefix + "lora", self.into, *group[0][2].name.split(".")[2:]])
        method = self.how.removesuffix("_svd") if self.how != "svd" else "linear"
        mix = Mix(method, self.density or 1.0, self.majority, self.seed, stem)
        how = "svd" if self.how.endswith("svd") else "cat" if self.how == "cat" else "factors"
        weights = tuple(self.weights[branch.adapter] for branch in branches)
        scales = tuple(branch.scale for branch in branches)
        made = Combination(how, mix, weights, scales, layouts, layout)
        dtype = group[0][2].tensors[branches[0].a].dtype
        with_a = (*old, f"{stem}_A") if how == "svd" else old
        return (
            NewTensor(layout.shape_a, dtype, Derive(old, made.a), trainable=False),
            NewTensor(layout.shape_b, dtype, Derive(with_a, made.b), trainable=False),
        )

    def _rank(self, path: str, group: Group, layouts: tuple[Layout, ...]) -> int:
        """Give the new adapter's rank at one weight.

        Raises:
            RefusedError: the adapters cannot be combined so.
        """
        branches = [extend.settings for _, _, extend in group]
        ranks = [branch.rank for branch in branches]
        if any(branch.m for branch in branches):
            raise _refused(path, "adapters without DoRA", "DoRA, whose lengths do not add up",
                           "merge it into the weight instead")  # fmt: skip
        if self.how == "cat":
            return sum(ranks)
        if not self.how.endswith("svd"):
            if len(set(ranks)) > 1:
                raise _refused(path, f"equal ranks for {self.how}",
                               ", ".join(map(str, ranks)), "choose cat or svd")  # fmt: skip
            return ranks[0]  # type: ignore[no-any-return]
        rank = self.rank or max(ranks)
        groups = ranks[0] // layouts[0].each
        if rank % groups:
            raise _refused(path, f"a rank that its {groups} groups divide", f"rank {rank}",
                           "choose another rank")  # fmt: skip
        return rank


def combine(  # noqa: PLR0913
    model: nn.Module,
    weights: Mapping[str, float],
    *,
    into: str,
    how: How = "svd",
    rank: int | None = None,
    density: float | None = None,
    majority: Literal["total", "frequency"] = "total",
    seed: int = 0,
) -> Applied:
    """Make one adapter of several; it is switched off until ``select`` turns it on.

    Args:
        model: the model with the adapters; changed in place.
        weights: what each adapter is multiplied with, by its name. Their scales count as they
            were placed; ``set_scale`` and ``disable`` do not.
        into: name of the new adapter.
        how: the method, see ``LoraCombine``.
        rank: rank for svd.
        density: share of the numbers that ties, dare and magnitude_prune keep.
        majority: how ties elects a sign.
        seed: seed of dare's drops.

    Returns:
        What was done; ``undo()`` takes it back.

    Raises:
        SelectionError: the model has no adapter of such a name.
        RefusedError: the adapters cannot be combined so.
    """
    from surgery.flow.memory import apply

    options = {"how": how, "rank": rank, "density": density, "majority": majority, "seed": seed}
    given = {name: value for name, value in options.items() if value is not None}
    every = {"weights": {name: float(weight) for name, weight in weights.items()}, "into": into}
    return apply(model, [{"use": LoraCombine.name, "with": {**every, **given}}], seed=seed)


def _adapters(
    model: nn.Module, names: Mapping[str, float]
) -> Iterator[tuple[str, nn.Module, Extend]]:
    from surgery.anatomy.extended import EXTENSIONS
    from surgery_plugins.surgeries.lora.branch import Branch

    for path, module in model.named_modules():
        for extend in module.__dict__.get(EXTENSIONS, {}).values():
            if isinstance(extend.settings, Branch) and extend.settings.adapter in names:
                yield path, module, extend


def _refused(path: str, wanted: str, found: str, instead: str) -> RefusedError:
    return RefusedError(f"{path} (lora-combine)", wanted, found, instead)
