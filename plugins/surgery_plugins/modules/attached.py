"""Modules that stand beside a model: multilayer perceptrons, convolutions, pooled encoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt
from typing import Literal, TypeAlias

from torch import Tensor, nn
from torch.nn import functional

Layout: TypeAlias = Literal["tokens", "channels_first", "channels_last"]
"""How features lie: ``[batch, tokens, channels]``, ``[batch, channels, height, width]`` or
``[batch, height, width, channels]``."""


def tokens_of(features: Tensor, layout: Layout, prefix: int = 0) -> Tensor:
    """Give features as tokens, ``[batch, tokens, channels]``.

    Args:
        features: in a layout.
        layout: which.
        prefix: tokens at the beginning that belong to no place, which are left out.
    """
    if layout == "channels_first":
        return features.flatten(2).transpose(1, 2)
    return (features.flatten(1, -2) if layout == "channels_last" else features)[:, prefix:]


def map_of(features: Tensor, layout: Layout, prefix: int = 0) -> Tensor:
    """Give features as a map, ``[batch, channels, height, width]``; tokens must make a square.

    Args:
        features: in a layout.
        layout: which.
        prefix: tokens at the beginning that belong to no place, which are left out.

    Raises:
        ValueError: the number of tokens is no square.
    """
    if layout == "channels_first":
        return features
    if layout == "channels_last":
        return features.movedim(-1, 1)
    tokens = features[:, prefix:]
    side = isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise ValueError(f"{tokens.shape[1]} tokens behind {prefix} others make no square")
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], side, side)


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Give linear layers with GELU between them.

    Args:
        sizes: widths, of the input first.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class PooledEncoder(nn.Module):
    """Encode all places of an image to one vector: mean, layer norm, perceptron.

    Args:
        sizes: widths, of the input first.
        layout: how features lie.
        prefix: tokens at the beginning that are left out.
    """

    def __init__(self, sizes: Sequence[int], layout: Layout, prefix: int) -> None:
        super().__init__()
        self.layout, self.prefix = layout, prefix
        self.norm = nn.LayerNorm(sizes[0])
        self.layers = perceptron(sizes)

    def forward(self, features: Tensor) -> Tensor:
        """Give ``[batch, out]`` of features in the layout."""
        pooled = tokens_of(features, self.layout, self.prefix).mean(1)
        made: Tensor = self.layers(self.norm(pooled))
        return made


class ConvEncoder(nn.Module):
    """Encode a map by convolutions with group norm and GELU, and resize what comes out.

    Args:
        widths: channels, of the input first.
        out: channels that come out.
        kernel: size of the kernels, odd.
        stride: stride of every convolution but the last.
        upscale: factor by which height and width grow at the end, bilinear.
        layout: how features lie.
        prefix: tokens at the beginning that are left out.
    """

    def __init__(
        self,
        widths: Sequence[int],
        out: int,
        kernel: int,
        stride: int,
        upscale: int,
        layout: Layout,
        prefix: int,
    ) -> None:
        super().__init__()
        self.layout, self.prefix, self.upscale = layout, prefix, upscale
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, kernel, stride, kernel // 2),
                    nn.GroupNorm(1, after),
                    nn.GELU(),
                )
                for before, after in pairwise(widths)
            )
        )
        self.out = nn.Conv2d(widths[-1], out, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Give ``[batch, out, height, width]`` of features in the layout."""
        made: Tensor = self.out(self.blocks(map_of(features, self.layout, self.prefix)))
        if self.upscale == 1:
            return made
        return functional.interpolate(made, scale_factor=self.upscale, mode="bilinear")
