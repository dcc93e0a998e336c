"""Tables of complex numbers that attention modules compute themselves, as Meta's SAM 3 does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from surgery.operate.edits import Edit, SetAttribute
from surgery_plugins.families.sam3.trunk import Block, blocks, patch_of
from surgery_plugins.surgeries.fresh.follow import rewrite, table_value
from surgery_plugins.surgeries.fresh.image import Size, check_multiple
from surgery_plugins.surgeries.fresh.settings import below

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.anatomy.site import Site
    from surgery.operate.patient import Patient


def complex_blocks(sites: Sequence[Site], model: nn.Module) -> list[Block]:
    """Give the blocks at and below the sites whose attention has a complex table."""
    paths = below(sites, model)
    return [block for block in blocks(model) if block.kind == "complex" and block.holder in paths]


def rebuild(found: Sequence[Block], patient: Patient, size: Size) -> Iterator[Edit]:
    """Give the edits that rebuild complex tables for images of a size.

    Args:
        found: the blocks; windowed ones keep their size and get their values anew.
        patient: what is operated on.
        size: height and width in pixels.

    Raises:
        RefusedError: the image is no whole number of patches.
    """
    for block in found:
        patch = patch_of(block, patient.model)
        check_multiple(size, patch, block.holder)
        cells = (size[1] // patch[1], size[0] // patch[0])  # these modules count columns first
        wanted = cells if block.window == 0 else tuple(block.attention.input_size)
        table = _table(block.attention, wanted)
        yield rewrite(block.table, table, table_value(table), patient)
        if tuple(block.attention.input_size) != wanted:
            yield SetAttribute(f"{block.holder}.input_size", wanted)


def _table(attention: Any, input_size: tuple[int, ...]) -> Tensor:
    """Let a copy of an attention module compute its table; the module itself is not touched."""
    twin = copy(attention)
    for name in ("_buffers", "_non_persistent_buffers_set"):
        twin.__dict__[name] = copy(twin.__dict__[name])
    twin.input_size = input_size
    twin._setup_rope_freqs()
    made: Tensor = twin._buffers["freqs_cis"]
    return made
