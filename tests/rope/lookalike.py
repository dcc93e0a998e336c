"""Trunks that look like SAM 3's: complex buffers as Meta has, cos and sin as transformers had."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

transformers = pytest.importorskip("transformers")


def axial(head: int, columns: int, rows: int, scale: float, theta: float = 100.0) -> Tensor:
    """Give ``(rows * columns, head / 2)`` complex rotations; half turn with x, half with y."""
    speeds = theta ** -(torch.arange(0, head, 4)[: head // 4] / head)
    spot = torch.arange(columns * rows)
    x = torch.outer((spot % columns) * scale, speeds)
    y = torch.outer(torch.div(spot, columns, rounding_mode="floor") * scale, speeds)
    angle = torch.cat([x, y], dim=1)
    return torch.polar(torch.ones_like(angle), angle)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, input_size: tuple[int, int], trained: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.input_size, self.rope_pt_size = input_size, (trained, trained)
        self._setup_rope_freqs()

    def _setup_rope_freqs(self) -> None:
        columns, rows = self.input_size
        scale = self.rope_pt_size[0] / columns
        self.register_buffer("freqs_cis", axial(self.head_dim, columns, rows, scale))

    def forward(self, x: Tensor) -> Tensor:
        """Attend within ``(batch, rows, columns, channels)``."""
        batch, rows, columns, dim = x.shape
        parts = self.qkv(x).reshape(batch, rows * columns, 3, self.heads, self.head_dim)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        out = scaled_dot_product_attention(self._turn(q), self._turn(k), v)
        return self.proj(out.transpose(1, 2).reshape(batch, rows, columns, dim))

    def _turn(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        assert self.freqs_cis.shape == (pairs.shape[-2], pairs.shape[-1])
        return torch.view_as_real(pairs * self.freqs_cis).flatten(3).to(x.dtype)


class Block(nn.Module):
    def __init__(self, dim: int, grid: tuple[int, int], window: int) -> None:
        super().__init__()
        self.window_size, self.norm1 = window, nn.LayerNorm(dim)
        size = (window, window) if window else grid
        self.attn = Attention(dim, 2, size, trained=3)

    def forward(self, x: Tensor) -> Tensor:
        side = self.window_size
        if side == 0:
            return x + self.attn(self.norm1(x))
        batch, rows, columns, dim = x.shape
        padded = pad(self.norm1(x), (0, 0, 0, -columns % side, 0, -rows % side))
        high, wide = padded.shape[1] // side, padded.shape[2] // side
        windows = padded.reshape(batch, high, side, wide, side, dim).transpose(2, 3)
        done = self.attn(windows.reshape(-1, side, side, dim))
        back = done.reshape(batch, high, wide, side, side, dim).transpose(2, 3)
        return x + back.reshape(batch, high * side, wide * side, dim)[:, :rows, :columns]


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)


class Trunk(nn.Module):
    """A trunk for images of ``size`` (height, width) pixels: windowed, global, windowed, global."""

    def __init__(self, size: tuple[int, int] = (126, 126), patch: int = 14, dim: int = 16) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim, patch)
        grid = (size[1] // patch, size[0] // patch)
        self.blocks = nn.ModuleList(Block(dim, grid, window) for window in (3, 0, 3, 0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for block in self.blocks:
            x = block(x)
        return x


class OldConfig(transformers.PreTrainedConfig):
    model_type = "old_sam3_vit"
    image_size: int = 126
    patch_size: int = 14
    hidden_size: int = 16
    num_attention_heads: int = 2
    window_size: int = 3


class OldRotary(nn.Module):
    def __init__(self, config: Any, end_x: int, end_y: int, scale: float) -> None:
        super().__init__()
        self.end_x, self.end_y = end_x, end_y
        turns = axial(config.hidden_size // config.num_attention_heads, end_x, end_y, scale)
        self.register_buffer("rope_embeddings_cos", turns.real.contiguous(), persistent=False)
        self.register_buffer("rope_embeddings_sin", turns.imag.contiguous(), persistent=False)


class OldLayer(nn.Module):
    def __init__(self, config: Any, window: int) -> None:
        super().__init__()
        self.config, self.window_size = config, window
        side = window or config.image_size // config.patch_size
        self.rotary_emb = OldRotary(config, side, side, config.window_size / side)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)


class OldModel(transformers.PreTrainedModel):
    """As transformers 5.0 to 5.10: a rotary module in each layer holds cos and sin."""

    config_class = OldConfig
    config: OldConfig

    def __init__(self, config: OldConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(OldLayer(config, window) for window in (3, 0))
        self.post_init()
