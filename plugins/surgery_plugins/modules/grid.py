"""Space to depth and back, on tokens that stand row by row."""

from __future__ import annotations

from math import isqrt

from torch import Tensor


def shuffle(tokens: Tensor, factor: int) -> Tensor:
    """Put the tokens of each square block side by side into one: pixel shuffle, downwards.

    Within a block the order is row, column, channel, as in InternVL's and Idefics3's
    ``pixel_shuffle`` of transformers.

    Args:
        tokens: ``[batch, side * side, width]``.
        factor: side of a block; it divides the grid's side.

    Returns:
        ``[batch, (side / factor) ** 2, width * factor ** 2]``.
    """
    batch, n, width = tokens.shape
    blocks = isqrt(n) // factor
    grid = tokens.reshape(batch, blocks, factor, blocks, factor, width)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(batch, blocks**2, factor**2 * width)


def unshuffle(tokens: Tensor, factor: int) -> Tensor:
    """Undo ``shuffle`` exactly.

    Args:
        tokens: ``[batch, blocks * blocks, width * factor ** 2]``.
        factor: side of a block.

    Returns:
        ``[batch, (blocks * factor) ** 2, width]``.
    """
    batch, n, wide = tokens.shape
    blocks, width = isqrt(n), wide // factor**2
    grid = tokens.reshape(batch, blocks, blocks, factor, factor, width)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(batch, (blocks * factor) ** 2, width)


def transpose(tokens: Tensor) -> Tensor:
    """Swap rows and columns of a square grid of tokens ``[batch, side * side, width]``."""
    batch, n, width = tokens.shape
    side = isqrt(n)
    return tokens.reshape(batch, side, side, width).transpose(1, 2).reshape(batch, n, width)
