"""Round numbers to few bits and back, as a quantised weight would hold them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 64
"""Numbers that share one scale, as bitsandbytes has it by default."""

OFFSET = 0.9677083
"""Where the outermost quantile of NormalFloat lies, as bitsandbytes has it."""


def quantised(matrices: Tensor, bits: int) -> Tensor:
    """Give the numbers that a weight of few bits would hold.

    Args:
        matrices: ``[count, rows, inner]``.
        bits: 2, 3 or 4 for NormalFloat in blocks of 64 numbers, each scaled by its largest
            (QLoRA, arXiv 2305.14314, appendix E); 8 for whole numbers up to 127, each row scaled
            by its largest (LLM.int8, arXiv 2208.07339).

    Returns:
        A tensor of the same shape.
    """
    if bits == 8:
        step = _one_if_zero(matrices.abs().amax(-1, keepdim=True)) / 127
        return (matrices / step).round() * step
    return _blocked(matrices, bits)


def _blocked(matrices: Tensor, bits: int) -> Tensor:
    """Round to the nearest value of a code book, block by block; the last one may be shorter."""
    import torch

    flat = matrices.flatten()
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    largest = _one_if_zero(blocks.abs().amax(1, keepdim=True))
    book = torch.tensor(code_book(bits), dtype=flat.dtype, device=flat.device)
    nearest = torch.bucketize(blocks / largest, (book[1:] + book[:-1]) / 2)
    return (book[nearest] * largest).flatten()[: flat.numel()].view(matrices.shape)


def _one_if_zero(largest: Tensor) -> Tensor:
    return largest.masked_fill(largest == 0, 1)


@cache
def code_book(bits: int) -> tuple[float, ...]:
    """Give the ascending values of NormalFloat, from -1 to 1.

    Half of them are positive quantiles of the normal distribution, one is zero, and one fewer
    are negative, all divided by the largest: for 4 bits QLoRA's NF4.
    """
    import torch

    half = 2 ** (bits - 1)
    above = torch.linspace(OFFSET, 0.5, half + 1, dtype=torch.float64)[:-1]
    below = torch.linspace(OFFSET, 0.5, half, dtype=torch.float64)[:-1]
    values = torch.cat(
        [torch.special.ndtri(above), -torch.special.ndtri(below), above.new_zeros(1)]
    )
    return tuple((values / values.max()).sort().values.tolist())
