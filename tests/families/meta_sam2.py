"""A small model that looks like Meta's SAM 2: its names and attributes, its own arithmetic."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, scaled_dot_product_attention

WIDTH = 32


class Perceptron(nn.Module):
    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        *first, last = self.layers
        for layer in first:
            x = layer(x).relu()
        return last(x)


class FusedAttention(nn.Module):
    """Fused rows; queries may be pooled, so that the map halves and the width doubles."""

    def __init__(self, dim: int, out: int, q_stride: tuple[int, int] | None) -> None:
        super().__init__()
        self.qkv, self.proj, self.q_stride = nn.Linear(dim, 3 * out), nn.Linear(out, out), q_stride

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.q_stride:
            q = max_pool2d(q.permute(0, 3, 1, 2), self.q_stride).permute(0, 2, 3, 1)
        found = scaled_dot_product_attention(*(t.flatten(1, 2) for t in (q, k, v)))
        return self.proj(found.reshape(q.shape))


class StageBlock(nn.Module):
    def __init__(self, dim: int, out: int, window: int) -> None:
        super().__init__()
        self.q_stride = (2, 2) if dim != out else None
        self.window_size = window
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(out)
        self.attn = FusedAttention(dim, out, self.q_stride)
        if dim != out:
            self.proj = nn.Linear(dim, out)
        self.mlp = Perceptron(out, 4 * out, out)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        if self.q_stride:
            x = max_pool2d(self.proj(normed).permute(0, 3, 1, 2), self.q_stride)
            x = x.permute(0, 2, 3, 1)
        x = x + self.attn(normed)
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=7, stride=4, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)


class Trunk(nn.Module):
    def __init__(self, dim: int = 8, stages: tuple[int, ...] = (1, 1, 2, 1)) -> None:
        super().__init__()
        self.window_spec, self.patch_embed = (8, 4, 8, 4), Patches(dim)
        self.pos_embed = nn.Parameter(torch.randn(1, dim, 4, 4))
        self.pos_embed_window = nn.Parameter(torch.randn(1, dim, 8, 8))
        self.stage_ends = [sum(stages[: n + 1]) - 1 for n in range(len(stages))]
        widths = [dim * 2**n for n, count in enumerate(stages) for _ in range(count)]
        self.blocks = nn.ModuleList(
            StageBlock(before, after, window=8)
            for before, after in zip([dim, *widths[:-1]], widths, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.patch_embed(x)
        high, wide = x.shape[1:3]
        window = self.pos_embed_window
        table = interpolate(self.pos_embed, size=(high, wide), mode="bicubic")
        times = (1, 1, high // window.shape[2], wide // window.shape[3])
        x = x + (table + window.tile(times)).permute(0, 2, 3, 1)
        found = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.stage_ends:
                found.append(x.permute(0, 3, 1, 2))
        return found


class NeckLayer(nn.Sequential):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv2d(dim, WIDTH, 1))


class ImageEncoder(nn.Module):
    def __init__(self, scalp: int) -> None:
        super().__init__()
        self.trunk, self.scalp, self.neck = Trunk(), scalp, nn.Module()
        self.neck.convs = nn.ModuleList(NeckLayer(dim) for dim in (64, 32, 16, 8))

    def forward(self, sample: Tensor) -> list[Tensor]:
        maps = self.trunk(sample)
        made = [c(x) for c, x in zip(reversed(list(self.neck.convs)), maps, strict=True)]
        return made[: len(made) - self.scalp]


class PromptEncoder(nn.Module):
    def __init__(self, grid: int, image: int) -> None:
        super().__init__()
        self.image_embedding_size = (grid, grid)
        self.input_image_size = (image, image)
        self.mask_input_size = (4 * grid, 4 * grid)
        self.no_mask_embed = nn.Embedding(1, WIDTH)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 2, 2), nn.GELU(), nn.Conv2d(4, 16, 2, 2), nn.GELU(),
            nn.Conv2d(16, WIDTH, 1),
        )  # fmt: skip

    def get_dense_pe(self) -> Tensor:
        return torch.zeros(1, WIDTH, *self.image_embedding_size)


class SplitAttention(nn.Module):
    def __init__(self, dim: int, kv: int, **more: Any) -> None:
        super().__init__()
        self.q_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.k_proj, self.v_proj = nn.Linear(kv, dim), nn.Linear(kv, dim)
        for name, value in more.items():
            setattr(self, name, value)


def turns(end_x: int, end_y: int) -> Tensor:
    return torch.ones(end_x * end_y, WIDTH // 2, dtype=torch.complex64)


class MemoryLayer(nn.Module):
    def __init__(self, grid: int, compute_cis: Any) -> None:
        super().__init__()
        more = {"freqs_cis": turns(grid, grid), "compute_cis": compute_cis}
        self.self_attn = SplitAttention(WIDTH, WIDTH, **more)
        self.cross_attn_image = SplitAttention(WIDTH, 16, **more)
        self.linear1, self.linear2 = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)


class DecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = SplitAttention(WIDTH, WIDTH)
        self.cross_attn_token_to_image = SplitAttention(WIDTH, WIDTH)
        self.cross_attn_image_to_token = SplitAttention(WIDTH, WIDTH)
        self.mlp = Perceptron(WIDTH, 64, WIDTH)


class MaskDecoder(nn.Module):
    def __init__(self, fine: bool) -> None:
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(DecoderLayer() for _ in range(2))
        self.iou_token = nn.Embedding(1, WIDTH)
        self.output_hypernetworks_mlps = nn.ModuleList(
            Perceptron(WIDTH, WIDTH, WIDTH, WIDTH // 8) for _ in range(4)
        )
        if fine:
            self.conv_s0 = nn.Conv2d(WIDTH, WIDTH // 8, 1)
            self.conv_s1 = nn.Conv2d(WIDTH, WIDTH // 4, 1)


class MetaSam2(nn.Module):
    """As SAM2Base: no forward of its own, and every size an attribute."""

    def __init__(self, image: int = 256, stride: int = 16, scalp: int = 1, fine: bool = True):
        super().__init__()
        grid = image // stride
        self.image_size, self.backbone_stride = image, stride
        self.sam_image_embedding_size = grid
        self.use_high_res_features_in_sam, self.num_feature_levels = fine, 3 if fine else 1
        self.directly_add_no_mem_embed = True
        self.image_encoder = ImageEncoder(scalp)
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.sam_prompt_encoder = PromptEncoder(grid, image)
        self.sam_mask_decoder = MaskDecoder(fine)
        self.memory_attention = nn.Module()
        self.memory_attention.layers = nn.ModuleList(
            MemoryLayer(grid, partial(turns)) for _ in range(2)
        )
        self.memory_encoder = nn.Module()
        self.memory_encoder.mask_downsampler = nn.Sequential(
            *(nn.Conv2d(1, 1, 3, 2, 1) for _ in range(4))
        )
        self.memory_encoder.fuser = nn.Module()
        self.memory_encoder.fuser.proj = nn.Identity()

    def forward(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("call the parts")

    def forward_image(self, img_batch: Tensor) -> list[Tensor]:
        """Give the feature maps in use, finest first; the fine ones as the decoder wants them."""
        maps = self.image_encoder(img_batch)
        if self.use_high_res_features_in_sam:
            maps[0] = self.sam_mask_decoder.conv_s0(maps[0])
            maps[1] = self.sam_mask_decoder.conv_s1(maps[1])
        return maps


def meta_sam2(**more: Any) -> MetaSam2:
    torch.manual_seed(0)
    return MetaSam2(**more).eval()
