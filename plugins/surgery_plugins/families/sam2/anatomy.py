"""Read SAM 2: trunk, strides of its feature maps, and the parts that share their sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING, Any, Literal

from surgery_plugins.families.prompts import Size, below, pair

if TYPE_CHECKING:
    from torch import nn

Maker = Literal["transformers", "meta"]
"""Whose classes a model is of."""

_NAMES: dict[Maker, tuple[str, str, str, str]] = {
    "transformers": ("vision_encoder.backbone", "vision_encoder.neck", "prompt_encoder",
                     "mask_decoder"),
    "meta": ("image_encoder.trunk", "image_encoder.neck", "sam_prompt_encoder",
             "sam_mask_decoder"),
}  # fmt: skip
"""Where each keeps trunk, neck, prompt encoder and mask decoder."""


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A SAM 2 somewhere in a model.

    Attributes:
        path: where it is.
        module: the model that owns the parts.
        maker: whose classes it is of.
        trunk: the hierarchical vision transformer.
        neck: what gives all feature maps one width.
        encoder: the prompt encoder.
        decoder: the mask decoder.
        strides: pixels of an image for a cell of each feature map that is used, finest first.
        window: pixels that both sides of an image must be a multiple of: a window of the trunk's
            table of positions.
    """

    path: str
    module: Any
    maker: Maker
    trunk: Any
    neck: Any
    encoder: Any
    decoder: Any
    strides: tuple[int, ...]
    window: int

    def at(self, name: str) -> str:
        """Give the path of a part, or of an attribute of the model."""
        return below(self.path, name)

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Paths of trunk, neck, prompt encoder and mask decoder."""
        trunk, neck, encoder, decoder = _NAMES[self.maker]
        return self.at(trunk), self.at(neck), self.at(encoder), self.at(decoder)

    @property
    def image(self) -> Size:
        """Height and width of the images that the model is made for, in pixels."""
        stated = self.module.image_size if self.maker == "meta" else self.encoder.input_image_size
        return pair(stated)

    @property
    def grid(self) -> Size:
        """Rows and columns of the coarsest feature map that is used."""
        return self.cells(self.strides[-1])

    @property
    def step(self) -> int:
        """Pixels that both sides of an image must be a multiple of."""
        return lcm(self.window, self.strides[-1])

    def cells(self, stride: int) -> Size:
        """Give rows and columns of a feature map of a stride."""
        return self.image[0] // stride, self.image[1] // stride

    def remade(self, size: Size) -> str:
        """Say what makes the model take images of the size nearest to one, in all of its parts."""
        near = self.nearest(size)
        if self.maker == "transformers":
            return f"change the model with `use: pos_embed, with: {{image_size: {near}}}`"
        return f"build the model with image_size = {near}"

    def nearest(self, size: Size) -> int:
        """Give the side of the square image nearest to a size that the trunk takes."""
        return max(round(max(size) / self.step), 1) * self.step


def segmenters(model: nn.Module) -> Iterator[Segmenter]:
    """Give every SAM 2 in a model, in module order."""
    for path, module in model.named_modules():
        for maker, names in _NAMES.items():
            if names[3] not in module._modules:
                continue
            parts = [_part(module, name) for name in names]
            if None not in parts and hasattr(parts[0], "pos_embed_window"):
                yield _segmenter(path, module, maker, parts)


def _part(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _segmenter(path: str, module: Any, maker: Maker, parts: list[Any]) -> Segmenter:
    trunk, neck, encoder, decoder = parts
    strides = _strides(trunk)
    scalp = getattr(getattr(module, "image_encoder", None), "scalp", 0)
    levels = getattr(getattr(module, "vision_encoder", None), "num_feature_levels", len(strides))
    used = strides[: len(strides) - scalp] if maker == "meta" else strides[:levels]
    window = _first_stride(trunk) * int(trunk.pos_embed_window.shape[-1])
    return Segmenter(path, module, maker, trunk, neck, encoder, decoder, used, window)


def _strides(trunk: Any) -> tuple[int, ...]:
    """Give the stride of the output of each stage: patches, and pooling of queries so far."""
    stride, found = _first_stride(trunk), []
    for number, block in enumerate(trunk.blocks):
        pooled = getattr(block, "q_stride", None) or getattr(block, "query_stride", None)
        stride *= pair(pooled)[0] if pooled else 1
        if number in trunk.stage_ends:
            found.append(stride)
    return tuple(found)


def _first_stride(trunk: Any) -> int:
    from torch import nn

    return next(int(m.stride[0]) for m in trunk.patch_embed.modules() if isinstance(m, nn.Conv2d))
