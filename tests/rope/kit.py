"""Small models of transformers, and what every surgery of tables must keep."""

from __future__ import annotations

import contextlib
import io
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import surgery
from surgery.cli import main
from surgery.flow.recipe import apply_recipe
from surgery.flow.run import Run
from surgery.hooks.registry import registry
from surgery.operate.table import named_tensors
from surgery.recipe.read import read_recipe
from surgery_plugins.surgeries.fresh.difference import attributes

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
VISION = {**SIZES, "image_size": 32, "patch_size": 8}


def vit(**more: Any) -> Any:
    return _built("ViTForImageClassification", transformers.ViTConfig(**{**VISION, **more}))


def dinov2(**more: Any) -> Any:
    return _built("Dinov2ForImageClassification", transformers.Dinov2Config(**{**VISION, **more}))


def clip() -> Any:
    text = {**SIZES, "vocab_size": 50, "eos_token_id": 1, "bos_token_id": 0}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    return _built("CLIPModel", config)


def siglip() -> Any:
    text = {**SIZES, "vocab_size": 50, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 2}
    return _built("SiglipModel", transformers.SiglipConfig(text_config=text, vision_config=VISION))


def llama(**more: Any) -> Any:
    config = transformers.LlamaConfig(
        **{**SIZES, "vocab_size": 50, "max_position_embeddings": 64, "head_dim": 16, **more}
    )
    return _built("LlamaForCausalLM", config)


def qwen2(**more: Any) -> Any:
    config = transformers.Qwen2Config(
        **{
            **SIZES,
            "vocab_size": 50,
            "max_position_embeddings": 64,
            "num_key_value_heads": 2,
            **more,
        }
    )
    return _built("Qwen2ForCausalLM", config)


def gemma3() -> Any:
    config = transformers.Gemma3TextConfig(
        **{**SIZES, "vocab_size": 50, "max_position_embeddings": 64, "head_dim": 16},
        num_key_value_heads=2, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    return _built("Gemma3ForCausalLM", config)


BACKBONE: dict[str, Any] = {
    "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 126, "patch_size": 14,
    "window_size": 3, "global_attn_indexes": [1, 2], "pretrain_image_size": 42,
}  # fmt: skip
SAM3_VISION: dict[str, Any] = {
    "model_type": "sam3_vision_model", "backbone_config": BACKBONE, "fpn_hidden_size": 32,
    "backbone_feature_sizes": [[36, 36], [18, 18], [9, 9]],
}  # fmt: skip
PROMPTS = {"hidden_size": 32, "image_size": 126, "patch_size": 14}
MASKS = {
    "hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32,
}  # fmt: skip


def sam3() -> Any:
    small = {
        "hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
    }  # fmt: skip
    text = {
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "projection_dim": 32, "max_position_embeddings": 16,
    }  # fmt: skip
    config = transformers.Sam3Config(
        vision_config=deepcopy(SAM3_VISION), text_config=text, geometry_encoder_config=small,
        detr_encoder_config=small, detr_decoder_config={**small, "num_queries": 5},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )  # fmt: skip
    return _built("Sam3Model", config)


def sam3_trunk(**more: Any) -> Any:
    config = transformers.Sam3ViTConfig(
        **{k: v for k, v in {**BACKBONE, **more}.items() if k != "model_type"}
    )
    return _built("Sam3ViTModel", config)


def sam3_tracker() -> Any:
    config = transformers.Sam3TrackerConfig(
        vision_config=deepcopy(SAM3_VISION), prompt_encoder_config=PROMPTS,
        mask_decoder_config=MASKS,
    )  # fmt: skip
    return _built("Sam3TrackerModel", config)


def sam3_video() -> Any:
    config = transformers.Sam3TrackerVideoConfig(
        vision_config=deepcopy(SAM3_VISION), prompt_encoder_config=PROMPTS,
        mask_decoder_config=MASKS, image_size=126, memory_attention_hidden_size=32,
        memory_attention_num_layers=1, memory_attention_num_attention_heads=1,
        memory_attention_rope_feat_sizes=[9, 9], memory_attention_feed_forward_hidden_size=48,
        memory_encoder_hidden_size=32, memory_encoder_output_channels=16,
        mask_downsampler_embed_dim=32, memory_fuser_embed_dim=32, memory_fuser_intermediate_dim=48,
    )  # fmt: skip
    return _built("Sam3TrackerVideoModel", config)


def sam2() -> Any:
    backbone = {
        "model_type": "sam2_hiera_det_model", "image_size": [256, 256], "hidden_size": 16,
        "num_attention_heads": 1, "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128], "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 8, 4], "global_attention_blocks": [3],
    }  # fmt: skip
    vision = {
        "model_type": "sam2_vision_model", "backbone_config": backbone, "fpn_hidden_size": 32,
        "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]],
    }  # fmt: skip
    config = transformers.Sam2Config(
        vision_config=vision, mask_decoder_config=MASKS,
        prompt_encoder_config={"hidden_size": 32, "image_size": 256, "patch_size": 16},
    )  # fmt: skip
    return _built("Sam2Model", config)


def _built(name: str, config: Any) -> Any:
    torch.manual_seed(0)
    return getattr(transformers, name)(config).eval()


def bits(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {
        name: (id(tensor), tensor.dtype, tuple(tensor.shape), tensor.detach().clone())
        for name, tensor, _ in named_tensors(model)
    }


def same_bits(one: dict[str, tuple[Any, ...]], other: dict[str, tuple[Any, ...]]) -> bool:
    return one.keys() == other.keys() and all(
        a[:3] == b[:3] and torch.equal(a[3], b[3])
        for a, b in ((one[name], other[name]) for name in one)
    )


def _plain_class(model: Any) -> Any:
    return getattr(type(model), "_surgery_base", type(model))


def assert_as_fresh(model: Any) -> None:
    """A model must be what its class builds from its configuration, but for the weights."""
    fresh = _plain_class(model)(deepcopy(model.config)).eval()
    mine = {n: (t, p) for n, t, p in named_tensors(model)}
    theirs = {n: (t, p) for n, t, p in named_tensors(fresh)}
    assert mine.keys() == theirs.keys()
    for name, (tensor, stored) in theirs.items():
        assert mine[name][0].shape == tensor.shape, name
        if not stored:
            assert mine[name][0].dtype == tensor.dtype, name
            assert torch.equal(mine[name][0], tensor), name
    assert _unlike(model, fresh) == {}


def _unlike(one: nn.Module, other: nn.Module) -> dict[str, Any]:
    """Give the plain attributes that differ, but for where the weights came from."""
    names = ("name_or_path", "_is_hf_initialized", "_output_capturing_hooks_installed")
    found = attributes(one, other)
    return {name: v for name, v in found.items() if name.rpartition(".")[2] not in names}


def run(*arguments: object) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    assert status == 0, out.getvalue() + err.getvalue()


def round_trip(model: Any, step: dict[str, Any], folder: Path, **source: Any) -> Any:
    """Apply a step live, on a model in memory and file by file; load all, and undo it.

    Returns:
        The loaded model, as it is with the step done.
    """
    model.save_pretrained(folder / "base")
    before, config = bits(model), model.config.to_dict()
    with surgery.apply(model, step) as live:
        assert all(pickle.dumps(slot.value) for slot in live.plan.slots.values())
        for way in ("live", "stream"):
            changed = _applied(step, folder, f"{way}-changed", source)
            _assert_equal(surgery.load(changed).model, model)
            full = _applied(step, folder, f"{way}-full", source)
            _assert_equal(surgery.load(full).model, model)
            plain = _plain_class(model).from_pretrained(full)
            if plain.dtype == torch.float32:  # transformers rounds positions in half precision
                assert_as_fresh(plain)
        _assert_equal_files(folder / "live-changed", folder / "stream-changed")
        loaded = surgery.load(changed).model
        assert_as_fresh(loaded)
    assert same_bits(before, bits(model))
    assert model.config.to_dict() == config
    return loaded


def _applied(step: dict[str, Any], folder: Path, name: str, source: dict[str, Any]) -> Path:
    way, save = name.split("-")
    recipe = {
        "recipe": 1, "patient": {"source": "hf", "path": "./base", **source},
        "surgeries": [step], "output": {"path": name, "save": save},
    }  # fmt: skip
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    known = registry()
    apply_recipe(read_recipe(str(file), registry=known), known, Run(way=way))
    return folder / name


def _assert_equal(found: nn.Module, wanted: nn.Module) -> None:
    mine, theirs = bits(found), bits(wanted)
    assert mine.keys() == theirs.keys()
    for name, (_, dtype, shape, values) in theirs.items():
        assert mine[name][1:3] == (dtype, shape), name
        assert torch.equal(mine[name][3], values), name
    assert _unlike(found, wanted) == {}


def _assert_equal_files(one: Path, other: Path) -> None:
    name = "changed.safetensors"
    assert (one / name).read_bytes() == (other / name).read_bytes()
