"""Contracts of SAM 3's tracker: what it states of the grid, of masks and of its memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surgery.operate.family import Violation
from surgery_plugins.families.prompts import Size, below, memory_sizes, pair, shrinks, unequal

_MEND = "build the tracker for the image size of the trunk"


def tracker_sizes(path: str, module: Any, grid: Size, patch: Size) -> Iterator[Violation]:
    """Check the sizes that a tracker states against the grid of the trunk's patches.

    Args:
        path: a module.
        module: the same; nothing is checked where it has no prompt encoder.
        grid: rows and columns of the trunk's patches.
        patch: height and width of a patch in pixels.
    """
    encoder = getattr(module, "sam_prompt_encoder", getattr(module, "prompt_encoder", None))
    if encoder is None:
        return
    image = (grid[0] * patch[0], grid[1] * patch[1])
    for name, (wanted, why) in _wanted(encoder, grid, patch, image).items():
        where = below(path, name)
        yield from unequal("tracker size", where, vars(module).get(name), wanted, why, _MEND)
    yield from _fed(path, module)
    yield from memory_sizes(path, module, grid, None)


def _wanted(encoder: Any, grid: Size, patch: Size, image: Size) -> Mapping[str, tuple[Size, str]]:
    """Give what each attribute must say, by its name, and why."""
    found = {
        "image_size": (image, "the trunk's grid in pixels"),
        "backbone_stride": (patch, "a patch of the trunk"),
        "sam_image_embedding_size": (grid, "the trunk's grid"),
    }
    masks = getattr(encoder, "mask_downscaling", None)
    if masks is not None:
        times = shrinks(masks)
        size = (times * grid[0], times * grid[1])
        found["low_res_mask_size"] = (size, f"{times} times the grid")
    return found


def _fed(path: str, module: Any) -> Iterator[Violation]:
    """Masks for the memory must have the size that its downsampler brings them to."""
    stated = vars(module).get("input_mask_size")
    for name, part in module.named_modules():
        size = vars(part).get("interpol_size")
        if size is not None and stated is not None:
            why = f"{below(path, name)}.interpol_size"
            where = below(path, "input_mask_size")
            yield from unequal("tracker size", where, stated, pair(size), why, _MEND)
