"""A look-alike of PanoVLM: own classes, own names, three tables of defaults that disagree."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.resampler.kit import transformers

DEFAULTS: dict[str, Any] = {
    "hidden": 24, "depth": 2, "d_inner": 48, "d_state": 4, "d_conv": 4, "dt_rank": 2,
    "conv_bias": True, "proj_bias": False, "norm_first": True, "eps": 1e-5, "dropout": 0.0,
}  # fmt: skip
"""What the class builds when nobody says otherwise: 1536 and 2.0, made small."""

TRAINED = {**DEFAULTS, "hidden": 16, "d_inner": 28}
"""What was trained: 1024 and 1.75, made small."""


class ResamplerModule(nn.Module):
    """Hold the resampler under a second name, as the project does."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        from surgery_plugins.modules.mamba import BiMamba

        super().__init__()
        self.resampler = BiMamba(in_features=18, out_features=12, **sizes)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.resampler(tokens)
        return out


class Tower(nn.Module):
    """Cut a panorama into patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 18, 4, stride=4)

    def forward(self, pixel_values: Tensor) -> Tensor:
        out: Tensor = self.patches(pixel_values).flatten(2).transpose(1, 2)
        return out


class PanoVLM(nn.Module):
    """Put the resampled tokens of an image before the text."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(resampler_type="bimamba", resampler_config=DEFAULTS)
        self.vision_encoder = Tower()
        self.resampler_module = ResamplerModule(sizes)
        self.language_model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=32, hidden_size=12, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=2,
            )
        )  # fmt: skip

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        image = self.resampler_module(self.vision_encoder(pixel_values))
        text = self.language_model.get_input_embeddings()(input_ids)
        out: Tensor = self.language_model(inputs_embeds=torch.cat((image, text), 1)).logits
        return out


def panovlm(sizes: dict[str, Any], seed: int) -> PanoVLM:
    from surgery_plugins.modules.mamba import FIRST, MambaMixer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PanoVLM(sizes)
        generator = torch.Generator().manual_seed(seed)
        for module in model.modules():
            if isinstance(module, MambaMixer):
                for name in FIRST:
                    FIRST[name](module.dt_rank, module.get_parameter(name).data, generator)
    return model.eval()
