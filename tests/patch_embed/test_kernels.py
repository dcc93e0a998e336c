"""Kernels of patch embeddings: the published rules, and the laws they promise."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from surgery_plugins.surgeries.patch_embed.kernels import pi_resize, resizing, with_channels

SIDES = st.integers(2, 7)


def kernel(channels: int, *size: int) -> torch.Tensor:
    return torch.randn(4, channels, *size, generator=torch.Generator().manual_seed(sum(size)))


@given(SIDES, SIDES, st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_bigger_patches_that_are_resized_alike_give_equal_tokens(
    h: int, w: int, more: int, wider: int
) -> None:
    size = (h + more, w + wider)
    weights = kernel(3, h, w).double()
    patch = torch.randn(1, 3, h, w, dtype=torch.float64)
    bigger = (patch.reshape(3, -1) @ resizing((h, w), size).T).reshape(1, 3, *size)
    resized = interpolate(patch, size, mode="bicubic", antialias=True)
    torch.testing.assert_close(bigger, resized)
    before = (weights * patch).sum((1, 2, 3))
    after = (pi_resize(weights, size) * bigger).sum((1, 2, 3))
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize(("old", "new"), [((8, 8), (6, 6)), ((4, 4), (7, 5)), ((16, 16), (14, 14))])
def test_the_formula_is_the_published_one(old: tuple[int, int], new: tuple[int, int]) -> None:
    columns = []
    for pixel in range(old[0] * old[1]):
        basis = torch.zeros(old)
        basis.view(-1)[pixel] = 1
        made = interpolate(basis[None, None], new, mode="bicubic", antialias=True)
        columns.append(made.flatten().numpy())
    inverse = np.linalg.pinv(np.stack(columns))
    weights = kernel(2, *old)
    wanted = torch.tensor(inverse) @ weights.reshape(-1, old[0] * old[1]).T
    torch.testing.assert_close(
        pi_resize(weights, new), wanted.T.reshape(4, 2, *new), rtol=1e-3, atol=1e-4
    )


@given(st.integers(1, 8), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_equal_channels_are_answered_as_before(before: int, after: int) -> None:
    weights = kernel(before, 3, 3)
    made = with_channels(weights, after)
    assert made.shape == (4, after, 3, 3)
    if after == 1 or after % before == 0:
        torch.testing.assert_close(made.sum(1), weights.sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 9])
def test_three_channels_become_others_as_timm_does_it(channels: int) -> None:
    weights = kernel(3, 3, 3)
    made = with_channels(weights, channels)
    if channels == 1:
        wanted = weights.sum(dim=1, keepdim=True)
    else:
        repeated = torch.cat([weights] * ceil(channels / 3), dim=1)[:, :channels]
        wanted = repeated * (3 / channels)
    assert torch.equal(made, wanted)


def test_the_same_channels_stay_bit_for_bit() -> None:
    weights = kernel(3, 2, 2)
    assert with_channels(weights, 3) is weights
