"""The family ``sam3``: relations between image, patches, rotary tables, features and masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

from surgery.operate.family import Family, Violation
from surgery_plugins.families.prompts import below, prompt_sizes
from surgery_plugins.families.roles import Roles, block_roles, patch_roles
from surgery_plugins.families.sam3.neck import global_blocks, levels
from surgery_plugins.families.sam3.tracker import tracker_sizes
from surgery_plugins.families.sam3.trunk import Block, blocks, patch_of

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.patient import Patient

Size = tuple[int, int]
"""Rows and columns, or height and width."""

_REBUILD = "rebuild the tables with `use: rope, with: {image_size: ...}`"


@final
class Sam3(Family):
    """Know SAM 3 by the rotary tables of its trunk's windowed and global blocks.

    All numbers are read off the modules and their configuration; none is a constant of a
    published checkpoint.
    """

    name: ClassVar[str] = "sam3"

    def matches(self, model: nn.Module) -> bool:
        """Tell whether a model has such a trunk."""
        return next(blocks(model), None) is not None

    def hints(self, model: nn.Module) -> Mapping[str, frozenset[str]]:
        """Give blocks, linear layers and patches of the trunk their roles."""
        return dict(_roles(model))

    def contracts(self, patient: Patient) -> Iterable[Violation]:
        """Check tables, image, features and masks against each other."""
        found = list(blocks(patient.model))
        for block in found:
            yield from _kind(block)
            yield from _length(block)
        yield from global_blocks(patient.model, found)
        wide = [block for block in found if block.window == 0]
        yield from _one_grid(wide)
        for block in wide[:1]:
            yield from _image(block, patient)
            yield from _features(block, patient.model)


def _roles(model: nn.Module) -> Roles:
    trunks = set()
    for block in blocks(model):
        yield from block_roles(block.path, model.get_submodule(block.path))
        trunks.add(block.path.rpartition(".")[0].rpartition(".")[0])
    for path in sorted(trunks):
        for name in ("patch_embed", "embeddings"):
            embed = getattr(model.get_submodule(path), name, None)
            if embed is not None:
                yield from patch_roles(below(path, name), embed)


def _kind(block: Block) -> Iterator[Violation]:
    """A complex table must still be complex, of half as many numbers as a head has."""
    if block.kind == "complex" and not block.values.is_complex():
        yield Violation(
            "rope table",
            block.table,
            "complex values",
            f"{str(block.values.dtype).removeprefix('torch.')} of shape "
            f"{tuple(block.values.shape)}: a cast of the model, or nn.DataParallel before torch "
            "2.11, made it real",
            f"{_REBUILD}, and cast nothing but weights; use DistributedDataParallel",
        )


def _length(block: Block) -> Iterator[Violation]:
    """A table must have one row for each patch of its window, or of its grid."""
    grid = (block.window, block.window) if block.window else block.grid()
    if grid is not None and len(block.values) < grid[0] * grid[1]:
        yield Violation(
            "rope table",
            block.table,
            f"{grid[0]} x {grid[1]} rows",
            f"{len(block.values)}",
            _REBUILD,
        )


def _one_grid(wide: list[Block]) -> Iterator[Violation]:
    """All blocks that see the whole image must have tables for the same grid."""
    for block in wide[1:]:
        first = wide[0]
        same = first.grid() == block.grid() and first.values.shape == block.values.shape
        if not same:
            wanted = f"the grid of {first.path}, {_shown(first.grid())}"
            yield Violation("rope table", block.table, wanted, _shown(block.grid()), _REBUILD)


def _image(block: Block, patient: Patient) -> Iterator[Violation]:
    """Rows and columns of an image in patches must be those of the table, not their product."""
    grid, patch = block.grid(), _patch(block, patient.model)
    for where, size in _sizes(block, patient):
        cells = (size[0] // patch[0], size[1] // patch[1])
        fits = len(block.values) == cells[0] * cells[1] if grid is None else cells == grid
        whole = (cells[0] * patch[0], cells[1] * patch[1]) == size
        if fits and whole:
            continue
        if grid is None:
            wanted, mend = (
                f"{len(block.values)} patches, as {block.table} has",
                _mended(size, patch),
            )
        else:
            pixels = f"{grid[0] * patch[0]} x {grid[1] * patch[1]}"
            wanted = (
                f"{pixels} pixels: {grid[0]} x {grid[1]} patches of {patch[0]} x {patch[1]}, as "
                f"{block.table} has"
            )
            mend = f"resize the image to {pixels}, or {_mended(size, patch)}"
        found = f"{size[0]} x {size[1]} pixels, {cells[0]} x {cells[1]} patches"
        yield Violation("image size", where, wanted, found, mend)


def _sizes(block: Block, patient: Patient) -> Iterator[tuple[str, Size]]:
    """Give the image sizes that the block's configuration and the patient's inputs state."""
    module: Any = patient.model.get_submodule(block.path)
    patch = _patch(block, patient.model)
    stated = getattr(getattr(module, "config", None), "image_size", None)
    if isinstance(stated, int):
        yield f"{block.path}.config.image_size", (stated, stated)
    elif stated is not None:
        yield f"{block.path}.config.image_size", _oriented(block, list(stated), patch)
    for name, tensor in (patient.inputs or {}).items():
        if getattr(tensor, "ndim", 0) in (4, 5) and tensor.shape[-3] == 3:
            yield f"inputs.{name}", (tensor.shape[-2], tensor.shape[-1])


def _oriented(block: Block, stated: list[int], patch: Size) -> Size:
    """Read two sides in the order that fits the table: versions of the class differ in it."""
    grid, turned = block.grid(), (stated[1], stated[0])
    fits = grid == (turned[0] // patch[0], turned[1] // patch[1])
    return turned if fits else (stated[0], stated[1])


def _patch(block: Block, model: nn.Module) -> Size:
    module: Any = model.get_submodule(block.path)
    stated = getattr(getattr(module, "config", None), "patch_size", None)
    if stated is None:
        return patch_of(block, model)
    return (stated, stated) if isinstance(stated, int) else (int(stated[0]), int(stated[1]))


def _features(block: Block, model: nn.Module) -> Iterator[Violation]:
    """Feature maps must be the grid times the neck's scales; prompts and masks must fit it."""
    grid = block.grid()
    if grid is None:
        return
    for path, module in model.named_modules():
        yield from levels(path, module, grid)
        if "image_embedding_size" in vars(module):
            yield from prompt_sizes(path, module, grid, None, _REBUILD)
        yield from tracker_sizes(path, module, grid, _patch(block, model))


def _shown(grid: Size | None) -> str:
    return "unknown" if grid is None else f"{grid[0]} x {grid[1]}"


def _mended(size: Size, patch: Size) -> str:
    """Give the surgery that makes the model take the whole patches nearest to a size."""
    sides = [max(round(s / p), 1) * p for s, p in zip(size, patch, strict=True)]
    wanted = str(sides[0]) if sides[0] == sides[1] else str(sides)
    return f"rebuild the tables with `use: rope, with: {{image_size: {wanted}}}`"
