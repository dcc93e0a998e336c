"""Untie: give a module a weight of its own where it shares one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.edits import Derive, Edit, Place, SetConfig
from surgery.operate.surgery import Surgery

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from surgery.operate.patient import Patient

TIED = "tie_word_embeddings"
"""The configuration's word for a head that shares the embedding's weight."""


class Untie(Surgery):
    """Give modules copies of the weights that they share with others; the values stay."""

    name: ClassVar[str] = "untie"
    identity_at_init: ClassVar[bool] = True
    unties: ClassVar[bool] = True
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ({"at": {"match": "head|lm_head"}},)

    def refuse(self, site: Site) -> str | None:
        """Refuse what has no weight, and what is no module."""
        if site.is_parameter or site.parameter is None:
            return "it is no module with a weight of its own"
        return "its rows belong to one weight" if site.part is not None else None

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Place a copy of each module, its tensors stored, and tell the configuration."""
        from surgery.anatomy.stand_in import twin

        model = patient.model
        for site in sites:
            module = model.get_submodule(site.path)
            if not _is_tied(module, model):
                raise RefusedError(
                    f"{site.path} (untie)", "a weight that another module holds too", "one alone",
                    "leave it out",
                )  # fmt: skip
            copy = twin(module)
            trainable = frozenset(n for n, p in copy.named_parameters() if p.requires_grad)
            values = {
                name: Derive((f"{site.path}.{name}",), _same)
                for name in (*dict(copy.named_parameters()), *dict(copy.named_buffers()))
            }
            yield Place(site.path, copy, values, trainable)
        if getattr(patient.config, TIED, False):
            yield SetConfig(TIED, False)


def _same(weight: Tensor, generator: Generator) -> Tensor:
    return weight.clone()


def _is_tied(module: nn.Module, model: nn.Module) -> bool:
    """Tell whether another module holds a tensor of this one."""
    own = {id(one) for one in module.modules()}
    held = {id(tensor) for tensor in module.parameters()}
    return any(
        id(tensor) in held
        for other in model.modules()
        if id(other) not in own
        for tensor in other._parameters.values()
    )
