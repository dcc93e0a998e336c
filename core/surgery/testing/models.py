"""The zoo's models: each is small, and awkward in a way in which real ones are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.testing.parts import WIDTH, Layer, SplitAttention

TOKENS = 20
"""Rows of the embeddings."""

PIXELS, PATCH = 8, 4
"""Sides of an image and of a patch."""

LAYERS = 2


class Text(nn.Module):
    """Embed tokens, run layers over them, and score the next token.

    Args:
        layer: builds a layer.
        tied: let the head hold the embedding's weight, and the norm stand under two names.
    """

    positions: Tensor

    def __init__(self, layer: Callable[[], nn.Module], tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.layers = nn.ModuleList(layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        table = torch.sin(torch.outer(torch.arange(16).float(), torch.linspace(0.1, 1, WIDTH)))
        self.register_buffer("positions", table, persistent=False)
        if tied:
            self.head.weight = self.embedding.weight
            self.last = nn.ModuleDict({"norm": self.norm})

    def encode(self, input_ids: Tensor) -> Tensor:
        """Give features ``(batch, length, width)`` of tokens ``(batch, length)``."""
        x = self.embedding(input_ids)
        x = x + self.positions[: x.shape[1]].to(x.dtype)
        for layer in self.layers:
            x = layer(x)
        answer: Tensor = self.norm(x)
        return answer

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map tokens ``(batch, length)`` to scores ``(batch, length, tokens)``."""
        answer: Tensor = self.head(self.encode(input_ids))
        return answer


class Image(nn.Module):
    """Cut an image into patches, run layers over them, and give one vector.

    Args:
        layer: builds a layer.
    """

    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.positions = nn.Parameter(torch.randn(1, (PIXELS // PATCH) ** 2, WIDTH) / 4)
        self.layers = nn.ModuleList(layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map images ``(batch, 3, side, side)`` to features ``(batch, width)``."""
        x = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            x = layer(x)
        answer: Tensor = self.norm(x).mean(1)
        return answer


class TwoTowers(nn.Module):
    """Compare texts with images.

    Args:
        text: builds a layer of the text tower.
        image: builds a layer of the image tower.
    """

    def __init__(self, text: Callable[[], nn.Module], image: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.text, self.image = Text(text), Image(image)
        self.text_side = nn.Linear(WIDTH, 6, bias=False)
        self.image_side = nn.Linear(WIDTH, 6, bias=False)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, input_ids: Tensor, pixels: Tensor) -> Tensor:
        """Map tokens and images to their likeness ``(texts, images)``."""
        text = F.normalize(self.text_side(self.text.encode(input_ids)[:, -1]), dim=-1)
        image = F.normalize(self.image_side(self.image(pixels)), dim=-1)
        return self.scale * text @ image.T


class CrossLayer(Layer):
    """Read another sequence after a layer of one's own.

    Args:
        attention: builds each of the two attentions.
    """

    def __init__(self, attention: Callable[[], nn.Module] = SplitAttention) -> None:
        super().__init__(attention)
        self.norm_3, self.cross = nn.LayerNorm(WIDTH), attention()

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Map ``(batch, length, width)`` to the same."""
        x = super().forward(x)
        answer: Tensor = x + self.cross(self.norm_3(x), memory)
        return answer


class EncoderDecoder(nn.Module):
    """Read one text and score another; both have one embedding, which the head holds too."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(TOKENS, WIDTH)
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.embedding = self.decoder.embedding = self.shared
        self.encoder.layers = nn.ModuleList(Layer(SplitAttention) for _ in range(LAYERS))
        self.decoder.layers = nn.ModuleList(CrossLayer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.shared.weight

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Map tokens ``(batch, length)`` and others to scores ``(batch, others, tokens)``."""
        memory, x = self.shared(input_ids), self.shared(decoder_input_ids)
        for layer in self.encoder.get_submodule("layers").children():
            memory = layer(memory)
        for layer in self.decoder.get_submodule("layers").children():
            x = layer(x, memory)
        answer: Tensor = self.head(x)
        return answer


class Convolutional(nn.Module):
    """Score an image with convolutions, whole and by channel, and statistics of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.by_channel = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, groups=WIDTH)
        self.mix = nn.Conv2d(WIDTH, 2 * WIDTH, 1)
        self.head = nn.Linear(2 * WIDTH, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map images ``(batch, 3, side, side)`` to scores ``(batch, 5)``."""
        x = F.relu(self.norm(self.stem(pixels)))
        x = F.relu(self.mix(self.by_channel(x)))
        answer: Tensor = self.head(x.mean((2, 3)))
        return answer
