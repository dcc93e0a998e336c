"""What SAM 2 and SAM 3 share: prompt encoders, masks and memory, measured by the grid."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any

from surgery.operate.family import Violation

if TYPE_CHECKING:
    from torch import Tensor, nn

Size = tuple[int, int]
"""Rows and columns, or height and width."""

_MASKS = ("mask_embed", "mask_downscaling")
"""What brings a mask to the size of the features: transformers' name and Meta's."""


def below(path: str, leaf: str) -> str:
    """Join a path and a name."""
    return f"{path}.{leaf}" if path else leaf


def pair(size: Any) -> Size:
    """Give a size as two numbers; one number stands for both."""
    if isinstance(size, int):
        return size, size
    first, second = size
    return int(first), int(second)


def shown(size: Any) -> str:
    """Write a size for people."""
    return " x ".join(map(str, pair(size)))


def shrinks(module: nn.Module) -> int:
    """Give by how much a stack of convolutions makes a picture smaller: its strides' product."""
    from torch import nn

    return prod(int(m.stride[0]) for m in module.modules() if isinstance(m, nn.Conv2d))


def unequal(
    contract: str, where: str, found: Any, wanted: Size, why: str, mend: str
) -> Iterator[Violation]:
    """Give a violation where a size is stated and is another one; none where it is not stated."""
    if found is not None and pair(found) != wanted:
        yield Violation(contract, where, f"{shown(wanted)}, {why}", shown(found), mend)


def prompt_sizes(
    path: str, encoder: Any, grid: Size, image: Size | None, mend: str
) -> Iterator[Violation]:
    """Check the sizes that a prompt encoder states against the grid of the image's features.

    Args:
        path: the encoder.
        encoder: a module of its own attributes ``image_embedding_size``, ``mask_input_size`` and
            ``input_image_size``; those that it does not have are left out.
        grid: rows and columns of the coarsest feature map that is used.
        image: height and width in pixels, or None where they are not known.
        mend: what to do.
    """
    own = vars(encoder)
    yield from unequal(
        "embedding size", below(path, "image_embedding_size"), own.get("image_embedding_size"),
        grid, "the grid of the coarsest feature map", mend,
    )  # fmt: skip
    if image is not None:
        yield from unequal(
            "image size", below(path, "input_image_size"), own.get("input_image_size"), image,
            "the image that the features are of", mend,
        )  # fmt: skip
    found = next((getattr(encoder, name) for name in _MASKS if hasattr(encoder, name)), None)
    if found is not None and "mask_input_size" in own:
        times = shrinks(found)
        wanted = (times * grid[0], times * grid[1])
        yield from unequal(
            "masks", below(path, "mask_input_size"), own["mask_input_size"], wanted,
            f"{times} times the grid {shown(grid)}", mend,
        )  # fmt: skip


def memory_sizes(
    owner_path: str, owner: nn.Module, grid: Size, image: Size | None
) -> Iterator[Violation]:
    """Check that what a memory remembers of masks has the grid of the features.

    Args:
        owner_path: the model that has the memory.
        owner: the same.
        grid: rows and columns of the coarsest feature map that is used.
        image: height and width of the masks in pixels, where the module states none; None where
            they are not known.
    """
    for path, module in owner.named_modules():
        stated = vars(module).get("interpol_size")
        fed = stated or image
        if path.rpartition(".")[2] != "mask_downsampler" or fed is None:
            continue
        size, times = pair(fed), shrinks(module)
        where = below(owner_path, below(path, "interpol_size") if stated else path)
        yield from unequal(
            "memory size", where, (size[0] // times, size[1] // times), grid,
            f"the grid, from masks of {times} times that", _FIT.format(times=times),
        )  # fmt: skip
    yield from _memory_tables(owner_path, owner, grid)


def _memory_tables(owner_path: str, owner: nn.Module, grid: Size) -> Iterator[Violation]:
    memory = getattr(owner, "memory_attention", None)
    if memory is None:
        memory = getattr(getattr(owner, "transformer", None), "encoder", None)
    if memory is None:
        return
    paths = {id(module): path for path, module in owner.named_modules()}
    for module in memory.modules():
        for leaf in ("freqs_cis", "position_ids"):
            table = getattr(module, leaf, None)
            if table is not None and hasattr(table, "is_complex"):
                where = below(owner_path, below(paths[id(module)], leaf))
                built_anew = grid[0] == grid[1] and hasattr(module, "compute_cis")
                yield from _table(where, leaf, table, None if built_anew else grid)


def _table(where: str, leaf: str, table: Tensor, grid: Size | None) -> Iterator[Violation]:
    """Check a table's values, and its rows too unless it is built anew for any square grid."""
    if leaf == "freqs_cis" and not table.is_complex():
        found = f"{str(table.dtype).removeprefix('torch.')} of shape {tuple(table.shape)}"
        yield Violation("memory table", where, "complex values", found, _CAST)
    elif grid is not None and len(table) != grid[0] * grid[1]:
        wanted = f"{grid[0] * grid[1]} rows: {shown(grid)} cells of the features"
        yield Violation("memory table", where, wanted, f"{len(table)} rows", _TABLE)


_FIT = "give it masks of {times} times the grid"
_CAST = "cast nothing but weights; a cast of the whole model makes complex tables real"
_TABLE = "set the sizes of the memory's rotary tables to the grid, and build them anew"
