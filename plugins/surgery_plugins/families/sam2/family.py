"""The family ``sam2``: roles, and relations between image, features, prompts, masks and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, final

from surgery.operate.family import Family, Violation
from surgery_plugins.families.roles import Roles, block_roles, linear_roles, patch_roles
from surgery_plugins.families.sam2.anatomy import Segmenter, segmenters
from surgery_plugins.families.sam2.inputs import prepared
from surgery_plugins.families.sam2.sizes import flags, sizes, widths

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.patient import Patient


@final
class Sam2(Family):
    """Know SAM 2 by its hierarchical trunk beside a prompt encoder and a mask decoder.

    transformers' ``Sam2Model`` and ``Sam2VideoModel``, and Meta's ``SAM2Base``, also where they are
    parts of another model. All numbers are read off the modules and their configuration; none is a
    constant of a published checkpoint.
    """

    name: ClassVar[str] = "sam2"

    def matches(self, model: nn.Module) -> bool:
        """Tell whether there is a SAM 2 in a model."""
        return next(segmenters(model), None) is not None

    def hints(self, model: nn.Module) -> Mapping[str, frozenset[str]]:
        """Give blocks and linear layers of trunk, mask decoder and memory their roles."""
        return {path: roles for one in segmenters(model) for path, roles in _roles(one)}

    def contracts(self, patient: Patient) -> Iterable[Violation]:
        """Check sizes, widths and inputs against each other."""
        for one in segmenters(patient.model):
            yield from sizes(one)
            yield from widths(one)
            yield from flags(one)
            yield from prepared(one, patient.inputs or {})


def _roles(one: Segmenter) -> Roles:
    trunk, _, _, decoder = one.names
    yield from patch_roles(f"{trunk}.patch_embed", one.trunk.patch_embed)
    for number, block in enumerate(one.trunk.blocks):
        yield from block_roles(f"{trunk}.blocks.{number}", block)
    yield from linear_roles(f"{decoder}.transformer", one.decoder.transformer)
    memory = getattr(one.module, "memory_attention", None)
    for number, layer in enumerate(memory.layers if memory is not None else ()):
        yield from block_roles(one.at(f"memory_attention.layers.{number}"), layer)
