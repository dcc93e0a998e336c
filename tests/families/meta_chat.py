"""Small models that look like InternVL's chat model and Sa2VA, as their checkpoints define them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.families.meta_sam2 import WIDTH, meta_sam2
from tests.rope.kit import transformers

VIT, TEXT, PATCH = 16, 24, 8
CONTEXT, SEG, WORDS = 60, 61, 64


class Embeddings(nn.Module):
    def __init__(self, image: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, VIT, PATCH, PATCH)
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, VIT))
        self.position_embedding = nn.Parameter(torch.zeros(1, (image // PATCH) ** 2 + 1, VIT))

    def forward(self, pixel_values: Tensor) -> Tensor:
        found = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(found), -1, -1)
        return torch.cat((first, found), 1) + self.position_embedding


class Tower(nn.Module):
    def __init__(self, image: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(image_size=image, patch_size=PATCH)
        self.embeddings = Embeddings(image)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.embeddings(pixel_values)


class Chat(nn.Module):
    """Tiles of 32 pixels: 4 x 4 patches, joined 2 x 2, so 4 places each."""

    def __init__(self, image: int = 32) -> None:
        super().__init__()
        self.config = SimpleNamespace(force_image_size=image)
        self.vision_model, self.downsample_ratio = Tower(image), 0.5
        self.num_image_token = (image // PATCH) ** 2 // 4
        self.img_context_token_id = CONTEXT
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(4 * VIT), nn.Linear(4 * VIT, TEXT), nn.GELU(), nn.Linear(TEXT, TEXT)
        )
        self.language_model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=WORDS, hidden_size=TEXT, intermediate_size=32, num_hidden_layers=1,
                num_attention_heads=4, num_key_value_heads=2,
            )
        )  # fmt: skip

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        tokens = self.vision_model(pixel_values)[:, 1:]
        side = int(tokens.shape[1] ** 0.5)
        tokens = tokens.reshape(-1, side // 2, 2, side // 2, 2, VIT).transpose(2, 3)
        image = self.mlp1(tokens.reshape(len(tokens), -1, 4 * VIT)).flatten(0, 1)
        text = self.language_model.get_input_embeddings()(input_ids)
        place = (input_ids == self.img_context_token_id)[..., None]
        found: Any = self.language_model(inputs_embeds=text.masked_scatter(place, image))
        return found.logits


class Grounding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sam2_model = meta_sam2()


class Sa2va(Chat):
    def __init__(self) -> None:
        super().__init__()
        self.grounding_encoder = Grounding()
        self.text_hidden_fcs = nn.Sequential(
            nn.Linear(TEXT, TEXT), nn.ReLU(), nn.Linear(TEXT, WIDTH), nn.Dropout(0.0)
        )
        self.seg_token_idx = SEG


def prompt(places: int) -> Tensor:
    return torch.tensor([[1, 2, *[CONTEXT] * places, 3]])
