"""The surgery ``lean``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from surgery.anatomy.extended import bare_class
from surgery.anatomy.site import Site
from surgery.anatomy.tree import paths_of
from surgery.errors import RefusedError
from surgery.operate.edits import Edit, Extend
from surgery.operate.surgery import Surgery

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.patient import Patient

NAME = "lean"


class Lean(Surgery):
    """Train layers with less memory: what norms and gates make is made again, not kept.

    Of a norm its input is kept for the backward pass, of a gated MLP (SwiGLU, GeGLU) the two
    products; what follows from these costs next to nothing to compute again. Outputs and gradients
    have the same bits. No weight changes, and nothing where no gradient is asked for, in a compiled
    model and under activation checkpointing, which keeps less.
    """

    name: ClassVar[str] = NAME
    identity_at_init: ClassVar[bool] = True
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ({},)

    def refuse(self, site: Site) -> str | None:
        """Refuse what is no layer."""
        return None if "layer" in site.roles and not site.is_parameter else "it is no layer"

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the layers; all selected sites where none is one."""
        return [site for site in sites if self.refuse(site) is None] or sites

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Extend the layers that have norms or gates, and these.

        Raises:
            RefusedError: no layer has any.
        """
        found = _extends(sites, patient.model)
        if not found:
            wanted = "layers with norms or gated MLPs"
            raise RefusedError(NAME, wanted, f"none in {len(sites)} of them", "leave it out")
        return found

    def notes(self, sites: Sequence[Site], patient: Patient) -> Iterable[str]:
        """Count the norms and gates."""
        from surgery_plugins.surgeries.lean.runtime import LeanGate, LeanNorm

        kinds = [extend.behaviour() for extend in _extends(sites, patient.model)]
        yield f"{kinds.count(LeanNorm)} norms, {kinds.count(LeanGate)} gated MLPs"


def _extends(sites: Sequence[Site], model: nn.Module) -> list[Extend]:
    """Give the extensions of layers and of what is below them, each module's once."""
    from surgery_plugins.surgeries.lean.runtime import LeanLayer

    found: dict[int, Extend] = {}
    for site in sites:
        layer = model.get_submodule(site.path)
        below = list(_below(layer, site.path))
        for module, extend in below:
            found.setdefault(id(module), extend)
        if below:
            found.setdefault(id(layer), Extend(site.path, NAME, LeanLayer.here))
    return list(found.values())


def _below(layer: nn.Module, prefix: str) -> Iterator[tuple[nn.Module, Extend]]:
    """Give the norms and the gated MLPs below a layer."""
    from surgery_plugins.surgeries.lean.gates import gate_of
    from surgery_plugins.surgeries.lean.runtime import LeanGate, LeanNorm

    for path, module in paths_of(layer)[1:]:
        if _is_norm(module):
            yield module, Extend(f"{prefix}.{path}", NAME, LeanNorm.here)
        elif (gate := gate_of(module)) is not None:
            yield module, Extend(f"{prefix}.{path}", NAME, LeanGate.here, gate)


def _is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a norm that keeps no statistics."""
    named = any(kind.__name__.endswith("Norm") for kind in bare_class(module).__mro__)
    return named and not module._modules and not module._buffers
