"""The surgery ``patch_embed``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.edits import Derive, Edit, Rewrite, SetAttribute, Value
from surgery.operate.surgery import Surgery
from surgery_plugins.surgeries.fresh.build import buildable
from surgery_plugins.surgeries.fresh.difference import Changed
from surgery_plugins.surgeries.fresh.follow import change, follow
from surgery_plugins.surgeries.fresh.forward import check_forward
from surgery_plugins.surgeries.fresh.image import Size, grids, image_settings, pair, parts_stating
from surgery_plugins.surgeries.fresh.settings import joined, topmost
from surgery_plugins.surgeries.patch_embed.kernels import Kernel
from surgery_plugins.surgeries.pos_embed.resample import Mode
from surgery_plugins.surgeries.pos_embed.rule import PositionRule

if TYPE_CHECKING:
    from surgery.operate.patient import Patient


class PatchEmbed(Surgery):
    """Change patch size or input channels of a patch embedding; tables of positions follow.

    Where the patient has a configuration of transformers, everything that a model built from the
    changed one has otherwise follows. Else the selected convolutions alone are changed.
    """

    name: ClassVar[str] = "patch_embed"
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"at": {"path": "image.patches"}, "with": {"channels": 4}},
    )

    patch_size: int | list[int] | None = Field(
        default=None, description="Side of a patch in pixels, or [height, width]."
    )
    channels: int | None = Field(default=None, ge=1, description="Input channels.")
    image_size: int | list[int] | None = Field(
        default=None,
        description="Side of the images in pixels; if left out, it stays and the grid changes.",
    )
    mode: Mode = Field(default="bicubic", description="How tables of positions interpolate.")
    antialias: bool = Field(default=True, description="Smooth where such a table gets smaller.")

    @model_validator(mode="after")
    def _some(self) -> PatchEmbed:
        if self.patch_size is None and self.channels is None:
            raise ValueError("expected patch_size, channels or both")
        for value in (self.patch_size, self.image_size):
            if isinstance(value, list) and (len(value) != 2 or min(value) < 1):
                raise ValueError("expected two positive numbers, [height, width]")
        return self

    def refuse(self, site: Site) -> str | None:
        """Refuse raw parameters."""
        return "it is a parameter and no module" if site.is_parameter else None

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the topmost sites; the convolutions that cut patches where there is no config."""
        if buildable(patient):
            return topmost(sites)
        modules = dict(patient.model.named_modules())
        return [site for site in sites if _cuts_patches(modules.get(site.path))] or sites

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Carry the kernels over; configuration, tables of positions and attributes follow."""
        if not buildable(patient):
            return [edit for site in sites for edit in self._alone(site, patient)]
        made = change(patient, self._settings(sites, patient))
        found = tuple(grids(patient.config, made.config))
        if any(new[0] != new[1] for _, new in found):
            check_forward(made, "patch_embed")
        positions = PositionRule(found, made.model, self.mode, self.antialias)
        convolutions = {f"{path}.weight" for path, m in made.model.named_modules() if _is_conv(m)}

        def rule(one: Changed) -> Value | None:
            return _kernel(one) if one.name in convolutions else positions(one)

        edits = list(follow(made, sites, rule, "patch_embed"))
        if not any(isinstance(edit, Rewrite) for edit in edits):
            raise RefusedError("patch_embed", "another patch size or channels", "those there are")
        return edits

    def _settings(self, sites: Sequence[Site], patient: Patient) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.channels is not None:
            keys = parts_stating("num_channels", sites, patient)
            found = {joined(key, "num_channels"): self.channels for key in keys}
        if self.patch_size is None and self.image_size is None:
            return found
        size = pair(self.image_size) if self.image_size is not None else None
        patch = pair(self.patch_size) if self.patch_size is not None else None
        return {**found, **image_settings(sites, patient, size, patch)}

    def _alone(self, site: Site, patient: Patient) -> Iterator[Edit]:
        """Change one convolution, without a configuration."""
        conv: Any = patient.model.get_submodule(site.path)
        if not _cuts_patches(conv):
            raise RefusedError(site.path, "a convolution whose stride is its kernel", site.type)
        size: Size = pair(self.patch_size) if self.patch_size is not None else conv.kernel_size
        channels = self.channels or conv.in_channels
        name, dtype = f"{site.path}.weight", str(conv.weight.dtype).removeprefix("torch.")
        value = Derive((name,), Kernel(channels, size))
        yield Rewrite(name, (conv.out_channels, channels, *size), dtype, value)
        for leaf, new in (("in_channels", channels), ("kernel_size", size), ("stride", size)):
            yield SetAttribute(f"{site.path}.{leaf}", new)


def _kernel(one: Changed) -> Value | None:
    """Carry a convolution's kernel over; None where its outputs change too."""
    if one.old.shape[0] != one.new.shape[0] or one.new.dim() != 4:
        return None
    height, width = one.new.shape[2:]
    return Derive((one.name,), Kernel(one.new.shape[1], (height, width)))


def _is_conv(module: Any) -> bool:
    from torch import nn

    return isinstance(module, nn.Conv2d)


def _cuts_patches(module: Any) -> bool:
    """Tell whether a module is a convolution whose stride is its kernel, over whole channels."""
    return _is_conv(module) and module.kernel_size == module.stride and module.groups == 1
