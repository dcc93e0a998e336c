"""A tiny InternVL joined with a tiny SAM 2, its tokenizer, and discs to describe to itself."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

from surgery.hooks.registry import registry
from surgery.operate.objective import Batch
from surgery.operate.patient import Patient
from surgery.recipe.read import read_recipe
from surgery.recipe.recipe import Recipe
from surgery.recipe.shipped import copy_shipped
from surgery.training.run import Trained, train_recipe
from surgery_plugins.modules.grounded import GroundedVlm, joined
from surgery_plugins.objectives.pseudo_gumbel import PseudoGumbel
from tests.segmentation.kit import disc, folders
from tests.tokens import kit as tokens

SLOT = "<IMG_CONTEXT>"
COLOURS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
QUICK: dict[str, Any] = {"vlm": COLOURS, "tokens": 6, "k": 16}
SIDE, PLACES = 4, 16
SETS: dict[str, Any] = {
    "train.epochs": None, "train.precision": "float32", "train.log.every": 1,
    "train.log.trackers": [], "train.save.every": None, "train.evaluate.every": None,
    "train.micro": None, "train.steps": 2, "train.batch": 3, "train.objective.vlm": COLOURS,
    "train.objective.tokens": 6,
}  # fmt: skip
"""Settings of the shipped recipe for seconds of training."""


def tokenizer(*more: str) -> Any:
    """Give a tokenizer with the tokens of InternVL, and more that are added."""
    made = tokens.tokenizer("byte-level")
    made.add_tokens(["<img>", "</img>", SLOT, *more], special_tokens=True)
    return made


def internvl(words: Any, slots: int = PLACES) -> Any:
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": [112, 112], "patch_size": [14, 14],
        },
        text_config={
            "model_type": "qwen2", "vocab_size": len(words), "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "initializer_range": 0.2, "tie_word_embeddings": False,
        },
        image_token_id=words.convert_tokens_to_ids(SLOT), image_seq_length=slots,
        downsample_ratio=0.5, tie_word_embeddings=False,
    )  # fmt: skip
    return InternVLForConditionalGeneration(config)


def sam2() -> Any:
    trunk = Sam2HieraDetConfig(
        hidden_size=8, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=trunk, backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], fpn_hidden_size=32,
    )  # fmt: skip
    decoder = Sam2MaskDecoderConfig(
        hidden_size=32, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=32
    )
    prompts = Sam2PromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16)
    model = Sam2Model(
        Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            last = "hypernetworks" in name or "upscale_conv" in name
            parameter.mul_((12 if last else 4) if parameter.ndim > 1 else 1)
        model.no_memory_embedding.normal_()
    return model


def grounded(words: Any, seed: int = 0, slots: int = PLACES) -> GroundedVlm:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return joined(internvl(words, slots), sam2())


def patient(*more: str, **options: Any) -> Patient:
    words = tokenizer(*(more or ("[SEG]",)))
    model = grounded(words, **options)
    return Patient(model, model.config, words)


def objective(**options: Any) -> PseudoGumbel:
    return PseudoGumbel(**{**QUICK, **options})


def batch(owner: Patient, one: PseudoGumbel, count: int = 3, **more: Any) -> Batch:
    rows = [one.encode({**disc(n), **more}, owner, Random(n)) for n in range(count)]
    return one.collate(rows, owner)


def shipped(root: Path, count: int = 6, **sets: Any) -> Recipe:
    """Give the shipped recipe for a tiny model and discs, with settings for seconds of training."""
    words = tokenizer()
    grounded(words).save_pretrained(root / "grounded")
    words.save_pretrained(root / "grounded")
    folders(root / "train", count)
    folders(root / "held-out", 2)
    copy_shipped("sa2va-pseudo-gumbel", root)
    return again(root, **sets)


def again(root: Path, **sets: Any) -> Recipe:
    """Read the copy of the shipped recipe, with settings for seconds of training."""
    given = tuple(f"{key}={json.dumps(value)}" for key, value in {**SETS, **sets}.items())
    return read_recipe(str(root / "sa2va-pseudo-gumbel.yaml"), registry=registry(), sets=given)


def run(recipe: Recipe, **options: Any) -> tuple[Trained, list[dict[str, Any]]]:
    """Train, and give what was recorded."""
    done = train_recipe(recipe, registry(), **options)
    lines = (done.run / "metrics.jsonl").read_text().splitlines()
    return done, [json.loads(line) for line in lines]
