"""Run a model through its own prompt encoder and mask decoder, as SAM 2 has them.

Not through the heads for video, which write a constant over masks whose object score is low and
so give no gradient; and not through helpers that run without gradients. Feature maps are told
apart by their shapes, since their order differs between interfaces.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from surgery.errors import TrainingError
from surgery_plugins.objectives.segmentation.prompts import NOWHERE
from surgery_plugins.objectives.segmentation.tensors import resized

ON, OFF = 10.0, -10.0
"""Logits of a mask that is given as a prompt, as SAM 2's own code makes them of zeros and ones."""


@dataclass(frozen=True)
class Prompted(ABC):
    """A model with prompt encoder and mask decoder.

    Attributes:
        model: the model.
    """

    model: Any

    def masks(self, batch: Mapping[str, Tensor], several: bool) -> Tensor:
        """Give logits of masks.

        Args:
            batch: ``pixel_values`` ``(batch, 3, height, width)``; ``points``
                ``(batch, count, 2)`` in pixels with ``labels`` ``(batch, count)``, and
                ``prompt_mask`` ``(batch, 1, height, width)``, where there are any.
            several: ask for several masks of each prompt.

        Returns:
            ``(batch, masks, rows, columns)``, four cells for one of the image's embedding.
        """
        images = batch["pixel_values"]
        grid = _pair(self.encoder.image_embedding_size)
        maps = self.maps(images)
        finest = level_for(maps, (4 * grid[0], 4 * grid[1]))
        middle = level_for(maps, (2 * grid[0], 2 * grid[1]))
        embedding = level_for(maps, grid) + self.without_memory()
        points, labels = batch.get("points"), batch.get("labels")
        if points is None or labels is None:
            points = images.new_zeros(len(images), 1, 2)
            labels = torch.full((len(images), 1), NOWHERE, device=images.device)
        mask = None if "prompt_mask" not in batch else self.as_prompt(batch["prompt_mask"])
        return self.decode((finest, middle, embedding), (points, labels, mask), several)

    def as_prompt(self, mask: Tensor) -> Tensor:
        """Give a mask of 0 and 1 as logits, of the size that the prompt encoder takes.

        Args:
            mask: ``(batch, 1, height, width)``.

        Returns:
            ``(batch, 1, *mask_input_size)``.
        """
        size = _pair(self.encoder.mask_input_size)
        return resized_batch(mask * (ON - OFF) + OFF, size)

    @property
    @abstractmethod
    def encoder(self) -> Any:
        """The prompt encoder."""

    @abstractmethod
    def maps(self, images: Tensor) -> Sequence[Tensor]:
        """Give feature maps ``(batch, channels, rows, columns)``, fine ones projected."""

    @abstractmethod
    def without_memory(self) -> Tensor | float:
        """Give what stands for no memory and is added to the image's embedding."""

    @abstractmethod
    def decode(
        self,
        maps: tuple[Tensor, Tensor, Tensor],
        prompt: tuple[Tensor, Tensor, Tensor | None],
        several: bool,
    ) -> Tensor:
        """Encode a prompt and decode masks.

        Args:
            maps: fine, middle and coarse features.
            prompt: points, labels and a mask or None.
            several: ask for several masks.

        Returns:
            ``(batch, masks, rows, columns)``.
        """


@final
class Transformers(Prompted):
    """``Sam2Model``, ``Sam2VideoModel`` and the trackers of SAM 3, as transformers has them."""

    @property
    def encoder(self) -> Any:
        """The prompt encoder."""
        return self.model.prompt_encoder

    def maps(self, images: Tensor) -> Sequence[Tensor]:
        """Give feature maps, the two fine ones projected as the decoder wants them."""
        found = self.model.vision_encoder(images, return_dict=True).fpn_hidden_states
        grid, decoder = _pair(self.encoder.image_embedding_size), self.model.mask_decoder
        fine = {
            (4 * grid[0], 4 * grid[1]): decoder.conv_s0,
            (2 * grid[0], 2 * grid[1]): decoder.conv_s1,
        }
        return [fine[s](m) if (s := tuple(m.shape[-2:])) in fine else m for m in found]

    def without_memory(self) -> Tensor:
        """Give what stands for no memory, ``(1, channels, 1, 1)``."""
        return self.model.no_memory_embedding.reshape(1, -1, 1, 1)  # type: ignore[no-any-return]

    def decode(
        self,
        maps: tuple[Tensor, Tensor, Tensor],
        prompt: tuple[Tensor, Tensor, Tensor | None],
        several: bool,
    ) -> Tensor:
        """Encode a prompt and decode masks."""
        points, labels, mask = prompt
        sparse, dense = self.encoder(
            input_points=points[:, None],
            input_labels=labels[:, None],
            input_boxes=None,
            input_masks=mask,
        )
        positions = self.model.get_image_wide_positional_embeddings()
        masks, *_ = self.model.mask_decoder(
            image_embeddings=maps[2],
            image_positional_embeddings=positions.repeat(len(points), 1, 1, 1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
            high_resolution_features=list(maps[:2]),
        )
        return masks[:, 0]  # type: ignore[no-any-return]


@final
class Meta(Prompted):
    """``SAM2Base`` and what is built on it, as Meta's code has them."""

    @property
    def encoder(self) -> Any:
        """The prompt encoder."""
        return self.model.sam_prompt_encoder

    def maps(self, images: Tensor) -> Sequence[Tensor]:
        """Give feature maps, the two fine ones projected as the decoder wants them."""
        return self.model.forward_image(images)["backbone_fpn"]  # type: ignore[no-any-return]

    def without_memory(self) -> Tensor | float:
        """Give what stands for no memory, where the model adds it at all."""
        if not self.model.directly_add_no_mem_embed:
            return 0.0
        return self.model.no_mem_embed.reshape(1, -1, 1, 1)  # type: ignore[no-any-return]

    def decode(
        self,
        maps: tuple[Tensor, Tensor, Tensor],
        prompt: tuple[Tensor, Tensor, Tensor | None],
        several: bool,
    ) -> Tensor:
        """Encode a prompt and decode masks."""
        points, labels, mask = prompt
        sparse, dense = self.encoder(points=(points, labels), boxes=None, masks=mask)
        masks, *_ = self.model.sam_mask_decoder(
            image_embeddings=maps[2],
            image_pe=self.encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
            repeat_image=False,
            high_res_features=list(maps[:2]),
        )
        return masks  # type: ignore[no-any-return]


def prompted(model: nn.Module) -> Prompted | None:
    """Give the way through prompt encoder and mask decoder; None where a model has none."""
    for kind, names in _PARTS.items():
        if all(hasattr(model, name) for name in names):
            return kind(model)
    return None


_PARTS: dict[type[Prompted], tuple[str, ...]] = {
    Transformers: (
        "vision_encoder", "prompt_encoder", "mask_decoder", "no_memory_embedding",
        "get_image_wide_positional_embeddings",
    ),
    Meta: ("forward_image", "sam_prompt_encoder", "sam_mask_decoder", "directly_add_no_mem_embed"),
}  # fmt: skip


def level_for(maps: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """Give the feature map of a grid, wherever it stands in the list.

    Raises:
        TrainingError: none has it.
    """
    for one in maps:
        if tuple(one.shape[-2:]) == grid:
            return one
    found = ", ".join(f"{one.shape[-2]} x {one.shape[-1]}" for one in maps)
    raise TrainingError(
        "train.objective (segmentation): feature maps",
        f"one of {grid[0]} x {grid[1]} cells, as the prompt encoder's image_embedding_size says",
        found, "give images of the size that the model is made for",
    )  # fmt: skip


def resized_batch(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(batch, 1, height, width)`` to a size."""
    return resized(masks.flatten(0, 1), size).unsqueeze(1)


def _pair(size: Any) -> tuple[int, int]:
    first, second = (size, size) if isinstance(size, int) else size
    return int(first), int(second)
