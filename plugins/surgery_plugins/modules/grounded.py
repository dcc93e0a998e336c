"""A vision-language model that points: its [SEG] is a prompt for the mask decoder of a SAM 2.

The arrangement is that of Sa2VA (Yuan et al., 2025); both parts are transformers' own classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
    Sam2Model,
)
from transformers.utils import ModelOutput

_NOWHERE = -1
"""Label of a point that is none, in SAM 2's prompt encoder."""


class GroundedConfig(PretrainedConfig):  # type: ignore[misc]
    """Hold the configurations of both parts.

    Attributes:
        vlm_config: of the vision-language model, a type with ``get_image_features``.
        sam_config: of SAM 2.
    """

    model_type = "grounded-vlm"
    sub_configs = {"vlm_config": AutoConfig, "sam_config": AutoConfig}  # noqa: RUF012

    vlm_config: Any = None
    sam_config: Any = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Make configurations of plain data."""
        self.vlm_config = _part(self.vlm_config, "internvl")
        self.sam_config = _part(self.sam_config, "sam2")
        self.tie_word_embeddings = bool(self.vlm_config.tie_word_embeddings)
        super().__post_init__(**kwargs)

    def get_text_config(self, *args: Any, **kwargs: Any) -> Any:
        """Give the configuration of the language model."""
        return self.vlm_config.get_text_config(*args, **kwargs)


def _part(given: Any, kind: str) -> Any:
    if isinstance(given, PretrainedConfig):
        return given
    values = dict(given or {})
    return CONFIG_MAPPING[values.pop("model_type", kind)].from_dict(values)


class GroundedVlm(PreTrainedModel):  # type: ignore[misc]
    """Join a vision-language model and a SAM 2 by a projection of hidden states to prompts."""

    config_class = GroundedConfig
    main_input_name = "input_ids"
    base_model_prefix = ""

    def __init__(self, config: GroundedConfig) -> None:
        super().__init__(config)
        text, prompt = config.get_text_config().hidden_size, config.sam_config.prompt_encoder_config
        self.vlm = AutoModelForImageTextToText.from_config(config.vlm_config)
        self.sam = Sam2Model._from_config(config.sam_config)
        self.text_hidden_fcs = nn.Sequential(
            nn.Linear(text, text), nn.ReLU(), nn.Linear(text, prompt.hidden_size)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Give the table of tokens of the language model."""
        return self.vlm.get_input_embeddings()  # type: ignore[no-any-return]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Take another table of tokens."""
        self.vlm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Give the head over the vocabulary."""
        return self.vlm.get_output_embeddings()  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> ModelOutput:
        """Read a text with images, as the vision-language model alone does."""
        return self.vlm(
            input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask, **kwargs
        )

    def see(self, pixel_values: Tensor) -> Tensor:
        """Give the tokens of images, ``[batch, places, width]``, behind the connector."""
        found = self.vlm.model.get_image_features(pixel_values, return_dict=True).pooler_output
        return found if isinstance(found, Tensor) else torch.stack(tuple(found))

    def read(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Give the last hidden states of the language model, ``[batch, length, width]``."""
        found = self.vlm.model.language_model(
            inputs_embeds=embeddings, attention_mask=mask, use_cache=False
        )
        return found.last_hidden_state  # type: ignore[no-any-return]

    def say(self, hidden: Tensor) -> Tensor:
        """Give logits over the vocabulary of hidden states."""
        return self.get_output_embeddings()(hidden)  # type: ignore[no-any-return]

    def segment(self, pixel_values: Tensor, hidden: Tensor) -> Tensor:
        """Give one mask for each image.

        Args:
            pixel_values: ``[batch, 3, height, width]``, as SAM 2 takes them.
            hidden: the state of [SEG], ``[batch, width]``.

        Returns:
            Logits ``[batch, rows, columns]``.
        """
        sam, batch = self.sam, len(pixel_values)
        maps = list(sam.get_image_features(pixel_values, return_dict=True).fpn_hidden_states)
        maps[-1] = maps[-1] + sam.no_memory_embedding
        sizes = sam.backbone_feature_sizes
        shaped = [
            one.permute(1, 2, 0).reshape(batch, -1, *size)
            for one, size in zip(maps, sizes, strict=True)
        ]
        sparse, dense = sam.prompt_encoder(
            input_points=pixel_values.new_zeros(batch, 1, 1, 2),
            input_labels=torch.full(
                (batch, 1, 1), _NOWHERE, dtype=torch.int32, device=pixel_values.device
            ),
            input_boxes=None,
            input_masks=None,
        )
        prompt = self.text_hidden_fcs(hidden)[:, None, None]
        masks, *_ = sam.mask_decoder(
            image_embeddings=shaped[-1],
            image_positional_embeddings=sam.get_image_wide_positional_embeddings().repeat(
                batch, 1, 1, 1
            ),
            sparse_prompt_embeddings=torch.cat([sparse, prompt.to(sparse.dtype)], 2),
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=shaped[:-1],
        )
        return masks[:, 0, 0]  # type: ignore[no-any-return]


def joined(vlm: Any, sam: Any) -> GroundedVlm:
    """Join two models; what is between them is new, their weights are theirs.

    Args:
        vlm: a vision-language model of transformers, such as InternVL.
        sam: a ``Sam2Model``.
    """
    model = GroundedVlm(GroundedConfig(vlm_config=vlm.config, sam_config=sam.config))
    model.vlm, model.sam = vlm, sam
    model.eval()
    return model
