"""Contracts of SAM 3 around its trunk: which blocks see the whole image, and feature maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from surgery.operate.family import Violation
from surgery_plugins.families.prompts import Size, below
from surgery_plugins.families.sam3.trunk import Block

if TYPE_CHECKING:
    from torch import nn


def global_blocks(model: nn.Module, found: Iterable[Block]) -> Iterator[Violation]:
    """Check that the blocks without windows are those that the trunk states.

    Args:
        model: the model.
        found: the blocks of its trunks.
    """
    owners: dict[str, list[Block]] = {}
    for block in found:
        owners.setdefault(block.path.rpartition(".")[0], []).append(block)
    for path, some in owners.items():
        above = path.rpartition(".")[0]
        seen = [int(b.path.rpartition(".")[2]) for b in some if b.window == 0]
        yield from _stated(above, model.get_submodule(above), seen)


def _stated(path: str, trunk: Any, seen: list[int]) -> Iterator[Violation]:
    config = getattr(trunk, "config", None)
    stated = {
        "full_attn_ids": getattr(trunk, "full_attn_ids", None),
        "config.global_attn_indexes": getattr(config, "global_attn_indexes", None),
    }
    for name, numbers in stated.items():
        if numbers is not None and sorted(numbers) != seen:
            where, wanted = below(path, name), f"{seen}, the blocks whose window_size is 0"
            mend = f"set {where} to {seen}"
            yield Violation("global blocks", where, wanted, str(sorted(numbers)), mend)


def levels(path: str, module: Any, grid: Size) -> Iterator[Violation]:
    """Check what a module states of feature maps against the grid and the neck's scales.

    Args:
        path: any module.
        module: the same.
        grid: rows and columns of the trunk's patches.
    """
    config = vars(module).get("config")
    scales = getattr(config, "scale_factors", None) or vars(module).get("scale_factors")
    made = getattr(module, "fpn_layers", getattr(module, "convs", None))
    if scales and made is not None and len(made) != len(scales):
        where, wanted = below(path, "scale_factors"), f"{len(made)} scales, one for each map"
        yield Violation("feature maps", where, wanted, str(list(scales)), _SCALES)
    yield from _sizes(path, config, grid)
    yield from _used(path, module)


def _sizes(path: str, config: Any, grid: Size) -> Iterator[Violation]:
    sizes = getattr(config, "backbone_feature_sizes", None)
    scales = getattr(config, "scale_factors", None)
    if not sizes or not scales:
        return
    wanted = [[int(side * scale) for side in grid] for scale in scales][: len(sizes)]
    if [list(size) for size in sizes] != wanted:
        where = below(path, "config.backbone_feature_sizes")
        told = f"{wanted}, the grid {grid[0]} x {grid[1]} by scales {list(scales)}"
        yield Violation("feature sizes", where, told, str(sizes), f"set them to {wanted}")


def _used(path: str, module: Any) -> Iterator[Violation]:
    """A model cannot use more maps than its neck gives and its backbone keeps."""
    backbone = getattr(module, "backbone", None)
    neck = getattr(backbone, "vision_backbone", None)
    used = vars(module).get("num_feature_levels")
    if neck is None or used is None:
        return
    kept = len(neck.scale_factors) - int(getattr(backbone, "scalp", 0))
    if used > kept:
        where = below(path, "num_feature_levels")
        wanted = f"at most {kept}: {len(neck.scale_factors)} maps less backbone.scalp"
        yield Violation("feature maps", where, wanted, str(used), f"use {kept} or fewer")


_SCALES = "give one scale for each feature map that the neck makes"
