"""Small vision-language models, and sizes for every kind of connector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

from surgery_plugins.surgeries.resampler.kinds import KINDS  # noqa: E402

IMAGE = 60
TOWER, TEXT = 32, 24
_TEXT = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": TEXT, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "pad_token_id": 0,
}  # fmt: skip
_VISION = {
    "hidden_size": TOWER, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
}  # fmt: skip


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def llava() -> Any:
    vision = {"model_type": "clip_vision_model", "projection_dim": 8, **_VISION}
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=_TEXT, image_token_index=IMAGE, image_seq_length=16
    )
    return _seeded(lambda: transformers.LlavaForConditionalGeneration(config))


def internvl() -> Any:
    vision = {**_VISION, "image_size": [32, 32], "patch_size": [8, 8]}
    config = transformers.InternVLConfig(
        vision_config=vision, text_config=_TEXT, image_token_id=IMAGE, image_seq_length=4,
        downsample_ratio=0.5,
    )  # fmt: skip
    return _seeded(lambda: transformers.InternVLForConditionalGeneration(config))


def idefics2() -> Any:
    perceiver = {
        "hidden_size": TEXT, "resampler_n_latents": 5, "resampler_depth": 2,
        "resampler_n_heads": 4, "resampler_head_dim": 8, "num_key_value_heads": 2,
    }  # fmt: skip
    config = transformers.Idefics2Config(
        vision_config=_VISION, text_config=_TEXT, perceiver_config=perceiver, image_token_id=IMAGE
    )
    return _seeded(lambda: transformers.Idefics2ForConditionalGeneration(config))


def idefics3() -> Any:
    config = transformers.Idefics3Config(
        vision_config=_VISION, text_config=_TEXT, scale_factor=2, image_token_id=IMAGE
    )
    return _seeded(lambda: transformers.Idefics3ForConditionalGeneration(config))


HOSTS: Mapping[str, Callable[[], Any]] = {
    "llava": llava,
    "internvl": internvl,
    "idefics2": idefics2,
    "idefics3": idefics3,
}
PLACE = r"model\.(multi_modal_projector|connector)"
PATHS = {
    "llava": "model.multi_modal_projector",
    "internvl": "model.multi_modal_projector",
    "idefics2": "model.connector",
    "idefics3": "model.connector",
}

SIZES: Mapping[str, dict[str, Any]] = {
    "linear": {"bias": True},
    "mlp": {"layers": 3, "hidden": 20, "act": "gelu", "bias": True, "norm": True},
    "pixel_shuffle": {
        "factor": 2, "layers": 2, "hidden": 20, "act": "gelu", "bias": True, "norm": True,
        "transposed": False,
    },
    "patch_merger": {"factor": 2, "norm": "rms", "grouped": False},
    "avg_pool": {"factor": 2, "bias": False},
    "normed_avg_pool": {"factor": 4, "eps": 1e-6},
    "perceiver": {
        "hidden": 28, "latents": 6, "depth": 2, "heads": 4, "kv_heads": 2, "head_dim": 8,
        "act": "silu", "eps": 1e-6,
    },
    "qformer": {
        "queries": 7, "hidden": 16, "ffn": 36, "depth": 3, "heads": 4, "cross_every": 2,
        "act": "gelu", "eps": 1e-12, "dropout": 0.0,
    },
    "c_abstractor": {
        "hidden": 12, "kernel": 3, "expanded": 24, "squeezed": 4, "depth": 2, "side": 3,
        "act": "silu",
    },
    "bimamba": {
        "hidden": 16, "depth": 2, "d_inner": 29, "d_state": 4, "d_conv": 4, "dt_rank": 2,
        "conv_bias": True, "proj_bias": False, "norm_first": True, "eps": 1e-5, "dropout": 0.0,
    },
}  # fmt: skip
TOKENS = {
    "linear": 16, "mlp": 16, "pixel_shuffle": 4, "patch_merger": 4, "avg_pool": 4,
    "normed_avg_pool": 1, "perceiver": 6, "qformer": 7, "c_abstractor": 9, "bimamba": 16,
}  # fmt: skip
INVISIBLE = {
    "linear": set(), "mlp": {"act"},
    "pixel_shuffle": {"act", "factor", "in_features", "transposed"},
    "patch_merger": {"grouped"}, "avg_pool": {"factor"}, "normed_avg_pool": {"factor", "eps"},
    "perceiver": {"heads", "kv_heads", "head_dim", "act", "eps"},
    "qformer": {"heads", "act", "eps", "dropout"}, "c_abstractor": {"side", "act"},
    "bimamba": {"norm_first", "eps", "dropout"},
}  # fmt: skip


def step(preset: str | None, /, at: Any = None, **options: Any) -> dict[str, Any]:
    given = {} if preset is None else {"kind": preset, "sizes": SIZES[preset]}
    return {"use": "resampler", "at": at or {"match": PLACE}, "with": {**given, **options}}


def build(kind: str, **sizes: Any) -> Any:
    """Build a connector with random values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = KINDS[kind].build(
            **{"in_features": TOWER, "out_features": TEXT, **SIZES[kind], **sizes}
        )
        for parameter in module.parameters():
            nn.init.normal_(parameter, 0.0, 0.1)
    return module.eval()


def inputs(host: str, slots: int) -> dict[str, Tensor]:
    """Give one text with an image of so many places."""
    shape = (1, 1, 3, 32, 32) if host.startswith("idefics") else (1, 3, 32, 32)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[1, *[IMAGE] * slots, 5, 6]])
    return {"input_ids": ids, "pixel_values": pixels}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(one[n], two[n]) for n in one)
