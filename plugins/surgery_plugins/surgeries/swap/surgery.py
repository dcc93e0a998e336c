"""The surgery ``swap``: modules of another kind in place of what is there, weights carried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from surgery.anatomy.site import Site
from surgery.operate.edits import Edit, Place
from surgery.operate.surgery import AtInit, Surgery

if TYPE_CHECKING:
    from surgery.operate.patient import Patient


class Swap(Surgery):
    """Replace norms, activations or matrices by another kind, or say how attention is computed.

    What a norm computes is measured, not read off its name, so that its weights are carried to
    mean the same: one that multiplies with 1 + weight gives 1 + weight. Where the configuration
    has a value that builds the same, it follows.
    """

    name: ClassVar[str] = "swap"
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"with": {"norm": "rms_norm"}},
        {"with": {"norm": "layer_norm", "alike": False}},
    )

    norm: Literal["rms_norm", "layer_norm"] | None = Field(
        default=None, description="torch's norm to put in the place of norms."
    )
    activation: str | None = Field(
        default=None,
        description="Activation to put in the place of activations, as transformers names it, such "
        "as gelu_pytorch_tanh.",
    )
    matrix: Literal["linear", "conv1d"] | None = Field(
        default=None,
        description="Module to put in the place of GPT-2's Conv1D, or of Linear; its weight is the "
        "other's transpose.",
    )
    attention: str | None = Field(
        default=None,
        description="How attention is computed, as transformers names it: eager, sdpa, "
        "flash_attention_2, flex_attention...",
    )
    drop_bias: bool = Field(
        default=False,
        description="For `rms_norm`: leave out biases, which it does not have; refused if False.",
    )
    alike: bool | None = Field(
        default=None,
        repr=False,
        description="Whether the new modules compute the same. The plan fills it in.",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Swap:
        if sum(one is not None for one in (*self._kinds(), self.attention)) != 1:
            raise ValueError("expected one of norm, activation, matrix and attention")
        if self.drop_bias and self.norm != "rms_norm":
            raise ValueError("drop_bias: only `norm: rms_norm` has no bias")
        return self

    @property
    def at_init(self) -> AtInit:
        """What computes the same may round otherwise."""
        return "close" if self.alike else "changed"

    def refuse(self, site: Site) -> str | None:
        """Refuse what is not of the kind that is swapped."""
        if self.attention is not None or self._about(site):
            return None
        return f"it is no {self._word()}"

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the sites of the kind that is swapped; for attention, all of them."""
        if self.attention is not None:
            return sites
        return [site for site in sites if self._about(site)] or sites

    def settled(self, sites: Sequence[Site], patient: Patient) -> Surgery:
        """Find out whether the new modules compute the same."""
        if self.alike is not None:
            return self
        if self.norm is None:
            return self.model_copy(update={"alike": self.activation is None})
        from surgery_plugins.surgeries.swap.norms import measured

        found = [measured(patient.model.get_submodule(s.path), s.path).kind for s in sites]
        return self.model_copy(update={"alike": set(found) == {self.norm}})

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Place the new modules, and let the configuration follow."""
        if self.attention is not None:
            from surgery_plugins.surgeries.swap.attention import set_attention

            yield from set_attention(self.attention, sites, patient)
            return
        for site in sites:
            yield self._placed(site, patient)
        if self.activation is not None:
            from surgery_plugins.surgeries.swap.activations import settings

            yield from settings(self.activation, sites, patient)[0]

    def notes(self, sites: Sequence[Site], patient: Patient) -> Iterable[str]:
        """Say what stands in the place of what, and whether the configuration can say it."""
        if self.attention is not None:
            yield (
                f"computed as {self.attention} here and by surgery.load: a configuration does not "
                "keep it, and a plain loader chooses for itself"
            )
            return
        counts: dict[str, int] = {}
        for site in sites:
            counts[site.type] = counts.get(site.type, 0) + 1
        word = self.norm or self.activation or self.matrix
        for kind, count in counts.items():
            yield f"{count} x {kind} -> {word}"
        if self.activation is not None:
            from surgery_plugins.surgeries.swap.activations import settings

            left = settings(self.activation, sites, patient)[1]
            if left:
                yield (
                    f"no value of the configuration builds {', '.join(left)} so: "
                    "only surgery.load does"
                )

    def _kinds(self) -> tuple[str | None, ...]:
        return self.norm, self.activation, self.matrix

    def _word(self) -> str:
        words = ("norm with a weight", "activation", "Conv1D or Linear whose weight it alone reads")
        return next(w for w, kind in zip(words, self._kinds(), strict=True) if kind is not None)

    def _about(self, site: Site) -> bool:
        """Tell whether a site is of the kind that is swapped."""
        if site.is_parameter:
            return False
        if self.norm is not None:
            named = any(kind.endswith("Norm") for kind in site.types)
            return len(site.shape) == 1 and ("norm" in site.roles or named)
        if self.matrix is not None:
            wanted = "Conv1D" if self.matrix == "linear" else "Linear"
            return site.type == wanted and not site.direct and site.part is None
        from surgery_plugins.surgeries.swap.activations import is_activation

        return is_activation(site)

    def _placed(self, site: Site, patient: Patient) -> Place:
        from surgery_plugins.surgeries.swap import activations, matrices, norms
        from surgery_plugins.surgeries.swap.own import check_own

        module = patient.model.get_submodule(site.path)
        check_own(patient.model, site.path, "swap")
        if self.norm is not None:
            return norms.place(self.norm, module, site.path, self.drop_bias)
        if self.matrix is not None:
            return matrices.place(module, site.path)
        return activations.place(str(self.activation), module, site.path)
