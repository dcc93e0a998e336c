"""The surgery ``rope``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.edits import Edit, Rewrite
from surgery.operate.surgery import Surgery
from surgery_plugins.surgeries.fresh.follow import Change, change
from surgery_plugins.surgeries.fresh.image import pair
from surgery_plugins.surgeries.fresh.settings import topmost
from surgery_plugins.surgeries.rope.complex import complex_blocks, rebuild
from surgery_plugins.surgeries.rope.configured import for_image, of_config
from surgery_plugins.surgeries.rope.hold import hold
from surgery_plugins.surgeries.rope.scaling import Scaling, sequence_settings

if TYPE_CHECKING:
    from surgery.operate.patient import Patient


class Rope(Surgery):
    """Rebuild rotary tables for another image size, context or scaling, as a fresh model has them.

    The tables are those at and below the selected sites; leave ``at:`` out for all of them.
    """

    name: ClassVar[str] = "rope"
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"with": {"scaling": {"type": "linear", "factor": 2.0}}},
    )

    image_size: int | list[int] | None = Field(
        default=None, description="Side of the images in pixels, or [height, width]."
    )
    context: int | None = Field(default=None, ge=1, description="Longest sequence, in tokens.")
    scaling: Scaling | None = Field(default=None, description="How frequencies are scaled.")
    layer_type: str | None = Field(
        default=None, description="Kind of layers meant, where each kind has its own table."
    )
    hold: bool = Field(
        default=True, description="Keep the tables in their dtype whatever the model is cast to."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Rope:
        sequence = (self.context, self.scaling)
        if (self.image_size is None) == all(option is None for option in sequence):
            raise ValueError("expected image_size, or context and scaling or one of these")
        if isinstance(self.image_size, list) and len(self.image_size) != 2:
            raise ValueError("expected image_size as one number or [height, width]")
        return self

    def refuse(self, site: Site) -> str | None:
        """Refuse parameters: tables are buffers of modules."""
        return "it is a parameter, and tables are not" if site.is_parameter else None

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the topmost sites."""
        return topmost(sites)

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Rebuild every table, so that none is left rounded, and let the configuration follow."""
        found = complex_blocks(sites, patient.model) if self.image_size is not None else []
        edits = list(
            rebuild(found, patient, pair(self.image_size))
            if found
            else of_config(self._change(sites, patient), sites)
        )
        tables = [edit.name for edit in edits if isinstance(edit, Rewrite)]
        if not tables:
            raise RefusedError("rope", "rotary tables at or below the selected sites", "none")
        return [*edits, *(hold(tables, dict(patient.model.named_modules())) if self.hold else ())]

    def _change(self, sites: Sequence[Site], patient: Patient) -> Change:
        if self.image_size is not None:
            return for_image(sites, patient, pair(self.image_size))
        settings = sequence_settings(sites, patient, self.scaling, self.context, self.layer_type)
        return change(patient, settings)
