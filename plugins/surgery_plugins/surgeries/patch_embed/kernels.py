"""Kernels of patch embeddings for another patch size and other input channels, as in timm."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from surgery_plugins.surgeries.fresh.image import Size


@dataclass(frozen=True)
class Kernel:
    """Carry the kernel of a patch embedding to other channels and another size.

    Attributes:
        channels: input channels wanted.
        size: height and width wanted, in pixels.
    """

    channels: int
    size: Size

    def __call__(self, kernel: Tensor, *, generator: Generator) -> Tensor:
        """Give the new kernel ``(outputs, channels, *size)``, in float32.

        Args:
            kernel: ``(outputs, channels before, height, width)``.
            generator: not used.
        """
        made = with_channels(kernel.float(), self.channels)
        return made if tuple(made.shape[2:]) == self.size else pi_resize(made, self.size)


def with_channels(kernel: Tensor, channels: int) -> Tensor:
    """Carry a kernel to other input channels.

    One channel gets the sum of all, which answers grey images as before. More get the old ones
    in turn, scaled by old / new, so that the response to equal channels stays. For three old
    channels this is timm 1.0's ``adapt_input_conv`` (``timm/models/_manipulate.py``).

    Args:
        kernel: ``(outputs, channels before, height, width)``.
        channels: how many are wanted.
    """
    before = kernel.shape[1]
    if channels == before:
        return kernel
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    repeated = kernel.repeat(1, ceil(channels / before), 1, 1)[:, :channels]
    return repeated * (before / channels)


def pi_resize(kernel: Tensor, size: Size) -> Tensor:
    """Resize a kernel by the pseudoinverse of image resizing, float64 inside.

    FlexiViT (Beyer et al. 2023, arXiv 2212.08013, eq. 4): with B the matrix that resizes patches,
    the new kernel is ``pinv(B^T) w``. Bigger patches, resized alike, then give equal tokens. B is
    bicubic with antialias, as in timm 1.0's ``resample_patch_embed``.

    Args:
        kernel: ``(outputs, channels, height, width)``.
        size: height and width wanted.

    Returns:
        ``(outputs, channels, *size)``.
    """
    import torch

    matrix = resizing(tuple(kernel.shape[2:]), size)
    inverse = torch.linalg.pinv(matrix.T)
    made = kernel.flatten(2).double() @ inverse.T
    resized: Tensor = made.reshape(*kernel.shape[:2], *size).to(kernel.dtype)
    return resized


def resizing(old: tuple[int, ...], new: Size) -> Tensor:
    """Give the matrix that resizes flattened patches: ``(new pixels, old pixels)``, float64."""
    import torch
    from torch.nn.functional import interpolate

    count = prod(old)
    basis = torch.eye(count, dtype=torch.float64).reshape(count, 1, *old)
    resized: Tensor = interpolate(basis, new, mode="bicubic", antialias=True)
    matrix: Tensor = resized.reshape(count, -1).T
    return matrix
