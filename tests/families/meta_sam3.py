"""A small model that looks like Meta's SAM 3: trunk, neck and tracker, with its attributes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.families.meta_sam2 import MaskDecoder, MemoryLayer, PromptEncoder, turns
from tests.rope.lookalike import Trunk


class Neck(nn.Module):
    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk, self.scale_factors = trunk, (4.0, 2.0, 1.0, 0.5)
        self.convs = nn.ModuleList(nn.Conv2d(16, 32, 1) for _ in self.scale_factors)


class Backbone(nn.Module):
    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.vision_backbone, self.scalp = Neck(trunk), 1


class MetaSam3(nn.Module):
    """The image model: 126 pixels, 9 x 9 patches of 14."""

    def __init__(self) -> None:
        super().__init__()
        trunk = Trunk()
        trunk.full_attn_ids = [1, 3]
        self.backbone, self.num_feature_levels = Backbone(trunk), 1

    def forward(self, img_batch: Tensor) -> Tensor:
        return self.backbone.vision_backbone.trunk(img_batch)


class Tracker(nn.Module):
    """What follows an object from image to image; its sizes are attributes."""

    def __init__(self, grid: int = 9) -> None:
        super().__init__()
        self.image_size, self.backbone_stride, self.sam_image_embedding_size = 14 * grid, 14, grid
        self.low_res_mask_size, self.input_mask_size = 4 * grid, 16 * grid
        self.sam_prompt_encoder = PromptEncoder(grid, 14 * grid)
        self.sam_mask_decoder = MaskDecoder(fine=True)
        self.maskmem_backbone = nn.Module()
        self.maskmem_backbone.mask_downsampler = nn.Sequential(
            *(nn.Conv2d(1, 1, 3, 2, 1) for _ in range(4))
        )
        self.maskmem_backbone.mask_downsampler.interpol_size = [16 * grid, 16 * grid]
        self.transformer = nn.Module()
        self.transformer.encoder = nn.Module()
        layer = MemoryLayer(grid, None)
        for attention in (layer.self_attn, layer.cross_attn_image):
            del attention.compute_cis
            attention.freqs_cis = turns(grid, grid)
        self.transformer.encoder.layers = nn.ModuleList([layer])


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.detector, self.tracker = MetaSam3(), Tracker()


def meta_sam3() -> Whole:
    torch.manual_seed(0)
    return Whole().eval()
