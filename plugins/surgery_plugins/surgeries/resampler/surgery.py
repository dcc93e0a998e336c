"""The surgery ``resampler``: another connector between vision tower and language model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from surgery.anatomy.site import Site
from surgery.operate.edits import Derive, Edit, Keep, Place, SetConfig
from surgery.operate.edits import Value as From
from surgery.operate.surgery import Surgery
from surgery_plugins.surgeries.resampler.infer import Inferred, infer

if TYPE_CHECKING:
    from surgery.operate.patient import Patient
    from surgery_plugins.families.hosts import Fit
    from surgery_plugins.modules.connector import Connector


KindName: TypeAlias = Literal[
    "linear", "mlp", "pixel_shuffle", "patch_merger", "avg_pool", "normed_avg_pool",
    "perceiver", "qformer", "c_abstractor", "bimamba",
]  # fmt: skip
"""What a recipe writes under ``kind:``."""


class Resampler(Surgery):
    """Rebuild or replace the connector between a vision tower and a language model.

    Sizes of weights that are loaded come from metadata, then from the tensors' shapes, then from
    the recipe; nothing is taken from a table of defaults.
    """

    name: ClassVar[str] = "resampler"
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {
            "at": {"path": "**.multi_modal_projector"},
            "with": {"kind": "mlp", "sizes": {"hidden": 12}},
        },
    )

    kind: KindName | None = Field(
        default=None, description="Kind of connector; read off `weights` if left out."
    )
    sizes: dict[str, int | float | bool | str] = Field(
        default_factory=dict,
        repr=False,
        description="What the connector is built with; see the kind.",
    )
    weights: str | None = Field(
        default=None,
        description="A safetensors file or folder with the connector's own weights, such as "
        "'./connector.safetensors'; other tensors in it are left alone.",
    )
    prefix: str | None = Field(
        default=None, description="What stands before the connector's names in `weights`."
    )
    metadata: bool = Field(
        default=True, description="Read sizes from metadata beside `weights` before the shapes."
    )
    carry: Literal["exact", "overlap", "none"] = Field(
        default="exact",
        description="Without `weights`: what to carry from the old connector. Tensors of equal "
        "name and shape, or also the common part of tensors of equal name, or nothing.",
    )
    found: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="Where each size came from. The plan fills it in for the journal.",
    )

    @staticmethod
    def infer(
        shapes: Mapping[str, tuple[int, ...]], kind: str | None = None, prefix: str | None = None
    ) -> tuple[Inferred, ...]:
        """Find the connectors among the tensors of a checkpoint, by names and shapes alone.

        Args:
            shapes: shapes of all tensors by name.
            kind: look for this kind only.
            prefix: look below this prefix only.

        Returns:
            For each: kind, prefix, sizes with the tensor that tells them, and candidates for
            sizes that shapes cannot tell.
        """
        return infer(shapes, kind=kind, prefix=prefix)

    def refuse(self, site: Site) -> str | None:
        """Refuse raw parameters and rows: a connector is a module."""
        if site.is_parameter:
            return "a raw parameter is no connector"
        return f"{site.part} is only some rows of it" if site.part is not None else None

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Leave out what lies inside another selected module: a role selects its parts too."""
        paths = {site.path for site in sites}
        return [site for site in sites if not paths & set(_above(site.path))]

    def settled(self, sites: Sequence[Site], patient: Patient) -> Surgery:
        """Find kind and sizes, and say where each came from; once found they stay."""
        if self.found:
            return self
        from surgery_plugins.surgeries.resampler import design

        path = design.only(sites)
        fit = design.fit_at(path, patient)
        prefix = self.prefix
        if self.weights is None:
            kind = design.demand_kind(self.kind)
            found = design.settled_fresh(kind, self.sizes, fit, path, patient.model)
        else:
            options = (self.kind, self.prefix, self.metadata)
            kind, prefix, found = design.settled_from_weights(
                self.weights, options, self.sizes, fit
            )
        values: dict[str, Any] = {
            name: float(value) if kind.all_sizes[name].type is float else value
            for name, (value, _) in found.items()
        }
        why = {name: told for name, (_, told) in found.items()}
        return self.model_copy(
            update={"kind": kind.name, "sizes": values, "prefix": prefix, "found": why}
        )

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Place the connector, and tell the configuration how many places an image has."""
        path, module, values, fit = self._made(sites, patient)
        yield Place(path, module, values)
        yield from _slots(module, fit, patient)

    def notes(self, sites: Sequence[Site], patient: Patient) -> Iterable[str]:
        """Show each size with where it came from, what was carried, and the tokens."""
        path, module, values, fit = self._made(sites, patient)
        for name, value in self.sizes.items():
            yield f"{name} = {value!r} ({self.found[name]})"
        yield from _tokens(path, module, fit)
        if self.weights is not None:
            yield f"all {len(values)} tensors from {self.weights}, below {self.prefix!r}"
        else:
            yield from _carried(values)

    def _made(
        self, sites: Sequence[Site], patient: Patient
    ) -> tuple[str, Connector, dict[str, From], Fit]:
        from surgery_plugins.surgeries.resampler import design
        from surgery_plugins.surgeries.resampler.values import FileValues, from_file, warm_start

        path = design.only(sites)
        kind, fit = design.demand_kind(self.kind), design.fit_at(path, patient)
        old = patient.model.get_submodule(path)
        module = design.built(kind, self.sizes, fit, old)
        if self.weights is not None:
            values = from_file(module, FileValues(self.weights, kind.name, self.prefix or ""))
        else:
            values = warm_start(module, kind, path, old, self.carry)
        return path, module, values, fit


def _above(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _slots(module: Connector, fit: Fit, patient: Patient) -> Iterator[SetConfig]:
    """Let configuration and processor say how many places an image has in a prompt."""
    if fit.host is None or fit.tokens is None:
        return
    slots = module.out_tokens(fit.tokens)
    holders = (("config", fit.host.slots, patient.config if fit.root else None),
               ("processor", fit.host.processor, patient.processor))  # fmt: skip
    for of, key, holder in holders:
        if key is not None and getattr(holder, key, slots) != slots:
            yield SetConfig(key, slots, of)


def _tokens(path: str, module: Connector, fit: Fit) -> Iterator[str]:
    if fit.host is None:
        yield f"no installed family knows what holds {path}: its ends are not checked against it"
    elif fit.tokens is None:
        yield "the tower has no position table: how many tokens it gives is not known"
    else:
        slots = module.out_tokens(fit.tokens)
        yield f"{fit.tokens} tokens of the tower become {slots} places in the prompt"
        if fit.host.slots and not fit.root:
            key = fit.host.slots
            yield f"the configuration that counts places is inside another: set {key} to {slots}"


def _carried(values: Mapping[str, From]) -> Iterator[str]:
    kept = [name for name, value in values.items() if isinstance(value, Keep | Derive)]
    shown = ", ".join(
        name + ("" if isinstance(values[name], Keep) else " (part or cast)") for name in kept[:8]
    )
    more = f" and {len(kept) - 8} more" if len(kept) > 8 else ""
    yield f"carried {len(kept)} of {len(values)} tensors" + (f": {shown}{more}" if kept else "")
