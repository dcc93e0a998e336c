"""Discs on plain ground, and tiny models of transformers that can learn them."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import numpy
import torch
from torch import nn

from surgery.hooks.registry import registry
from surgery.operate.objective import Batch, Step
from surgery.operate.patient import Patient
from surgery.recipe.read import read_recipe
from surgery.recipe.recipe import Recipe
from surgery.recipe.shipped import copy_shipped
from surgery.training.guards import Guards
from surgery.training.run import Trained, train_recipe
from surgery_plugins.objectives.segmentation import Segmentation
from tests.rope import kit

transformers = kit.transformers
COLOURS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def disc(number: int, high: int = 90, wide: int = 160) -> dict[str, Any]:
    """Give a bright disc on dark ground: image, mask and where it is."""
    random = Random(number)
    radius = random.uniform(0.18, 0.4) * high
    x, y = (random.uniform(radius, side - radius) for side in (wide, high))
    rows, columns = numpy.mgrid[:high, :wide]
    mask = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
    noise = numpy.random.default_rng(number).integers(0, 40, (high, wide, 3))
    image = (noise + 180 * mask[..., None]).astype(numpy.uint8)
    return {"image": image, "mask": mask, "text": "disc", "place": [x / wide, y / high]}


def folders(root: Path, count: int, **more: int) -> Path:
    """Write discs as folders of arrays, with notes."""
    notes = {}
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        found = disc(number, **more)
        numpy.save(root / "images" / f"{number:03}.npy", found.pop("image"))
        numpy.save(root / "masks" / f"{number:03}.npy", found.pop("mask"))
        notes[f"{number:03}"] = found
    (root / "notes.json").write_text(json.dumps(notes))
    return root


def shipped(root: Path, name: str, model: nn.Module, count: int, **sets: Any) -> Recipe:
    """Give a shipped recipe for a tiny model and discs, with settings for seconds of training."""
    folder = {"sam2-lora": "sam2", "sam3-lora": "sam3", "sam3-frozen-head": "sam3"}[name]
    model.save_pretrained(root / folder)  # type: ignore[operator]
    tokenizer().save_pretrained(root / folder)
    folders(root / "train", count)
    folders(root / "held-out", 2)
    copy_shipped(name, root)
    return again(root, name, **sets)


def again(root: Path, name: str, **sets: Any) -> Recipe:
    """Read the copy of a shipped recipe, with settings for seconds of training."""
    quick = {
        "train.epochs": None, "train.precision": "float32", "train.log.every": 1,
        "train.log.trackers": [], "train.save.every": None, "train.micro": None, **sets,
    }  # fmt: skip
    given = tuple(f"{key}={json.dumps(value)}" for key, value in quick.items())
    return read_recipe(str(root / f"{name}.yaml"), registry=registry(), sets=given)


def run(recipe: Recipe) -> tuple[Trained, list[dict[str, Any]]]:
    """Train, and give what was recorded."""
    done = train_recipe(recipe, registry())
    lines = (done.run / "metrics.jsonl").read_text().splitlines()
    return done, [json.loads(line) for line in lines]


def fallen(lines: list[dict[str, Any]]) -> float:
    """Give the mean loss of the last three steps, as a share of that of the first three."""
    losses = [line["loss"] for line in lines if "loss" in line]
    return sum(losses[-3:]) / sum(losses[:3])


def tokenizer() -> Any:
    """Give a tokenizer of three words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "disc": 2, "a": 3}, "<eos>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
    )


def patient(model: nn.Module, **more: Any) -> Patient:
    return Patient(model, config=getattr(model, "config", None), **more)


def batch(objective: Segmentation, owner: Patient, numbers: Any = range(2), **more: Any) -> Batch:
    return collated(objective, owner, [{**disc(n), **more} for n in numbers])


def collated(objective: Segmentation, owner: Patient, samples: list[dict[str, Any]]) -> Batch:
    encoded = [objective.encode(s, owner, Random(n)) for n, s in enumerate(samples)]
    return objective.collate(encoded, owner)


def sam2(side: int = 256, seed: int = 0) -> Any:
    """Give a tiny SAM 2 that answers its images, as a trained one does.

    Its matrices are larger than a new model's, and the embedding for no memory is not zero.
    """
    config = deepcopy(kit.sam2().config.to_dict())
    config["vision_config"]["backbone_config"]["image_size"] = [side, side]
    sizes = [[side // stride] * 2 for stride in (4, 8, 16)]
    config["vision_config"]["backbone_feature_sizes"] = sizes
    config["prompt_encoder_config"]["image_size"] = side
    torch.manual_seed(seed)
    model = transformers.Sam2Model(transformers.Sam2Config.from_dict(config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            last = "hypernetworks" in name or "upscale_conv" in name
            parameter.mul_((12 if last else 4) if parameter.ndim > 1 else 1)
        model.no_memory_embedding.normal_(generator=torch.Generator().manual_seed(seed))
    return model


def sam2_video() -> Any:
    """Give a tiny SAM 2 for video; its heads write over masks."""
    image = kit.sam2().config
    config = transformers.Sam2VideoConfig(
        vision_config=image.vision_config.to_dict(), prompt_encoder_config=kit.PROMPTS | {
            "image_size": 256, "patch_size": 16},
        mask_decoder_config=kit.MASKS, image_size=256, memory_attention_hidden_size=32,
        memory_attention_num_layers=1, memory_attention_num_attention_heads=1,
        memory_attention_rope_feat_sizes=[16, 16], memory_attention_feed_forward_hidden_size=48,
        memory_encoder_hidden_size=32, memory_encoder_output_channels=16,
        mask_downsampler_embed_dim=32, memory_fuser_embed_dim=32, memory_fuser_intermediate_dim=48,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.Sam2VideoModel(config).eval()


def trained(
    objective: Segmentation, owner: Patient, steps: int = 12, lr: float = 1e-2
) -> tuple[list[float], list[Step]]:
    """Train on the same discs with all guards, and give the losses."""
    model = owner.model
    free = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW([{"params": list(free.values()), "name": "all"}], lr=lr)
    guards = Guards(model, optimizer, frozenset(free))
    guards.start()
    given, found = batch(objective, owner, range(4)), []
    for number in range(steps):
        optimizer.zero_grad(set_to_none=True)
        step = objective.step(model, given)
        step.loss.backward()
        guards.after_backward(number, step, float(step.loss.detach()))
        optimizer.step()
        found.append(step)
    guards.check_frozen()
    return [float(step.loss.detach()) for step in found], found
