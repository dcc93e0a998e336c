"""The one place where the cells of a region are chosen: texts and embeddings both count these."""

from __future__ import annotations

from math import isqrt

from torch import Tensor
from torch.nn.functional import interpolate


def side_of(places: int) -> int:
    """Give the side of the square grid that the places of an image make.

    Raises:
        ValueError: they make no square.
    """
    side = isqrt(places)
    if side * side != places:
        raise ValueError(
            f"an image takes {places} places, which make no square grid; a region has no cells in "
            "it: leave {region} out"
        )
    return side


def cells_of(mask: Tensor, side: int) -> Tensor:
    """Choose the cells of a region: those whose centre is in the mask; there may be none.

    Args:
        mask: ``[height, width]``, True where the object is, of the image as the model sees it.
        side: of the grid.

    Returns:
        ``[side * side]``, row by row, True for the cells of the region.
    """
    return interpolate(mask[None, None].float(), (side, side), mode="nearest-exact").flatten() > 0
