"""The surgery ``layers``: drop, keep, repeat, reorder and insert the layers of a stack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from surgery.anatomy.site import Layer, Site
from surgery.errors import RefusedError
from surgery.operate.edits import Edit
from surgery.operate.surgery import AtInit, Surgery
from surgery_plugins.surgeries.layers.order import (
    Order,
    dropped,
    expanded,
    kept,
    listed,
    repeated,
    told,
)

if TYPE_CHECKING:
    from surgery.operate.patient import Patient

_DO: dict[str, Callable[[int, Sequence[int]], Order]] = {
    "drop": dropped, "keep": kept, "repeat": repeated, "insert": expanded,
}  # fmt: skip


class Layers(Surgery):
    """Drop, keep, repeat or reorder layers, or insert blocks that start as identities.

    One stack at a time: select its layers, such as ``{layers: "4-7", tower: text}``. What the
    configuration says of each layer moves with it. A layer moves with its values, under a new
    name; what belongs to a place, such as T5's one table of relative positions, stays there.

    Inserted blocks are those of LLaMA-Pro (Wu et al. 2024, arXiv 2401.02415): copies of the layer
    before them whose two outputs to the residual stream are zero.
    """

    name: ClassVar[str] = "layers"
    narrows: ClassVar[frozenset[str]] = frozenset({"freeze"})
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"at": {"match": r"((text|encoder)\.)?layers\.0"}, "with": {"do": "drop"}},
        {
            "at": {"match": r"((text|encoder)\.)?layers\.[0-9]"},
            "with": {"order": [1, 0, 1]},
        },
    )

    do: Literal["drop", "keep", "repeat", "insert"] | None = Field(
        default=None,
        description="What to do at the selected layers: leave them out, leave all others out, "
        "put a copy behind each, or an identity behind each.",
    )
    order: list[int | str] | None = Field(
        default=None,
        description="Instead of `do`: the whole stack anew, old layers by number and range, such "
        "as ['0-23', '8-31']; some may be left out or come twice.",
    )
    zero: list[str] | None = Field(
        default=None,
        repr=False,
        description="For `insert`: the tensors of a layer that are zero in an identity, such as "
        "self_attn.o_proj.weight; found by their roles if left out.",
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="Values of the configuration that must follow and cannot be derived, by "
        "dotted key.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Layers:
        if (self.do is None) == (self.order is None):
            raise ValueError("expected one of do and order")
        if self.zero is not None and self.do != "insert":
            raise ValueError("zero: only inserted blocks have tensors that are zero")
        return self

    @property
    def at_init(self) -> AtInit:
        """Inserted blocks change nothing; everything else may."""
        return "equal" if self.do == "insert" else "changed"

    def refuse(self, site: Site) -> str | None:
        """Refuse what is no layer."""
        return None if _is_layer(site) else "it is no layer of a stack"

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the layers among the selected sites."""
        return [site for site in sites if _is_layer(site)] or sites

    def settled(self, sites: Sequence[Site], patient: Patient) -> Surgery:
        """Find the tensors that must be zero, and prove that the block then gives its input."""
        if self.do != "insert":
            return self
        from surgery_plugins.surgeries.layers.silent import prove_silent, written_to_stream

        zero = written_to_stream(sites, patient) if self.zero is None else self.zero
        prove_silent(sites, patient, frozenset(zero))
        return self.model_copy(update={"zero": list(zero)})

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Place the stack anew, and let the configuration follow."""
        from surgery_plugins.surgeries.layers.restack import restack

        stack = _stack(sites)
        order = self._order(sites, stack)
        if [(b.source, b.inserted) for b in order] == [(n, False) for n in range(stack.count)]:
            raise RefusedError("layers", "another order of layers", "the one that is there")
        if not order:
            raise RefusedError("layers", "at least one layer to be left", "none", "drop fewer")
        return restack(patient, stack.container, order, frozenset(self.zero or ()), self.config)

    def notes(self, sites: Sequence[Site], patient: Patient) -> Iterable[str]:
        """Say which old layer stands where."""
        stack = _stack(sites)
        order = self._order(sites, stack)
        yield f"{stack.container}: {stack.count} -> {len(order)} layers"
        yield from told(order)
        if self.zero:
            yield f"zero in inserted layers: {', '.join(self.zero)}"

    def _order(self, sites: Sequence[Site], stack: Layer) -> Order:
        if self.order is not None:
            return listed(stack.count, self.order)
        chosen = sorted({site.layer.number for site in sites if site.layer})
        return _DO[str(self.do)](stack.count, chosen)


def _is_layer(site: Site) -> bool:
    """Tell whether a site is a whole layer: a direct child of its container."""
    return (
        site.layer is not None
        and not site.is_parameter
        and site.path.rpartition(".")[0] == site.layer.container
    )


def _stack(sites: Sequence[Site]) -> Layer:
    """Give the one stack whose layers are selected.

    Raises:
        RefusedError: there are several.
    """
    found = {site.layer.container: site.layer for site in sites if site.layer}
    if len(found) != 1:
        raise RefusedError(
            "layers.at", "layers of one stack", f"those of {', '.join(found) or 'none'}",
            "narrow it with `tower:` or `path:`, and write a step for each stack",
        )  # fmt: skip
    return next(iter(found.values()))
