"""All kinds of connectors, by name."""

from __future__ import annotations

from surgery_plugins.surgeries.resampler.kinds.blocks import (
    AVG_POOL,
    C_ABSTRACTOR,
    NORMED_AVG_POOL,
    PATCH_MERGER,
)
from surgery_plugins.surgeries.resampler.kinds.mamba import BIMAMBA
from surgery_plugins.surgeries.resampler.kinds.projections import LINEAR, MLP, PIXEL_SHUFFLE
from surgery_plugins.surgeries.resampler.kinds.queries import PERCEIVER, QFORMER

KINDS = {
    kind.name: kind
    for kind in (
        LINEAR, MLP, PIXEL_SHUFFLE, PATCH_MERGER, AVG_POOL, NORMED_AVG_POOL, PERCEIVER, QFORMER,
        C_ABSTRACTOR, BIMAMBA,
    )
}  # fmt: skip
"""What a recipe may write under ``kind:``."""
