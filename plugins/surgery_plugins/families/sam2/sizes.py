"""Contracts of SAM 2 between its own parts: sizes, widths and flags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surgery.operate.family import Violation
from surgery_plugins.families.prompts import below, memory_sizes, pair, prompt_sizes, shown, unequal
from surgery_plugins.families.sam2.anatomy import Segmenter


def sizes(one: Segmenter) -> Iterator[Violation]:
    """Check everything that states a size against the image and the trunk's strides."""
    mend = one.remade(one.image)
    yield from _whole(one, mend)
    yield from prompt_sizes(one.names[2], one.encoder, one.grid, one.image, mend)
    yield from _features(one, mend)
    yield from _configured(one, mend)
    if one.maker == "meta":
        yield from _strides(one)
    yield from memory_sizes(one.path, one.module, one.grid, one.image)


def _whole(one: Segmenter, mend: str) -> Iterator[Violation]:
    """An image must be a whole number of windows and of the coarsest cells, and square."""
    height, width = one.image
    if height == width and height % one.step == 0:
        return
    near = one.nearest(one.image)
    why = f"windows of {one.window} pixels, coarsest cells of {one.strides[-1]}"
    where = one.at("image_size") if one.maker == "meta" else f"{one.names[2]}.input_image_size"
    wanted = f"a square, its sides multiples of {one.step} ({why}), such as {near} x {near}"
    yield Violation("image size", where, wanted, shown(one.image), mend)


def _features(one: Segmenter, mend: str) -> Iterator[Violation]:
    """The list of feature sizes must be the image's divided by the strides, finest first."""
    stated = vars(one.module).get("backbone_feature_sizes")
    if stated is None:
        return
    wanted = [one.cells(stride) for stride in one.strides]
    found = [pair(size) for size in stated]
    if found != wanted:
        where = one.at("backbone_feature_sizes")
        why = f"{_listed(wanted)}: the image {shown(one.image)} by strides {_and(one.strides)}"
        yield Violation("feature sizes", where, why, _listed(found), mend)


def _configured(one: Segmenter, mend: str) -> Iterator[Violation]:
    """The configuration must state what the modules have, or a reload builds another model."""
    config = vars(one.module).get("config")
    if config is None:
        return
    image = {"prompt_encoder_config.image_size", "vision_config.backbone_config.image_size"}
    wanted = {**dict.fromkeys(image, one.image), "memory_attention_rope_feat_sizes": one.grid}
    wanted["prompt_encoder_config.patch_size"] = pair(one.strides[-1])
    for key, size in sorted(wanted.items()):
        found, where = _setting(config, key), below(one.path, f"config.{key}")
        why = "what the modules are made for"
        yield from unequal("configured size", where, found, size, why, mend)
    stated = _setting(config, "vision_config.backbone_feature_sizes")
    cells = [one.cells(stride) for stride in one.strides]
    if stated is not None and [pair(size) for size in stated] != cells:
        where = below(one.path, "config.vision_config.backbone_feature_sizes")
        found = _listed([pair(size) for size in stated])
        yield Violation("configured size", where, _listed(cells), found, mend)


def _setting(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name, None)
    return config


def _strides(one: Segmenter) -> Iterator[Violation]:
    """What Meta's model states of its grid must follow from the trunk."""
    stated: Mapping[str, tuple[int, str]] = {
        "backbone_stride": (one.strides[-1], "the trunk's stride at the coarsest map in use"),
        "sam_image_embedding_size": (one.grid[0], "image_size by backbone_stride"),
    }
    for name, (wanted, why) in stated.items():
        found = vars(one.module).get(name)
        if found is not None and found != wanted:
            mend = f"build the model with {name} = {wanted}"
            where = one.at(name)
            yield Violation("stride", where, f"{wanted}, {why}", str(found), mend)


def widths(one: Segmenter) -> Iterator[Violation]:
    """Neck, prompt encoder, decoder and the embedding of no memory must have one width."""
    from torch import nn

    width = next(m.out_channels for m in one.neck.modules() if isinstance(m, nn.Conv2d))
    for where, found in _widths(one):
        if found != width:
            wanted = f"{width}, the width of {one.names[1]}"
            yield Violation("width", where, wanted, str(found), "rebuild it with this width")


def _widths(one: Segmenter) -> Iterator[tuple[str, int]]:
    _, _, encoder, decoder = one.names
    yield f"{encoder}.no_mask_embed", int(one.encoder.no_mask_embed.weight.shape[1])
    yield f"{decoder}.iou_token", int(one.decoder.iou_token.weight.shape[1])
    for name in ("no_mem_embed", "no_memory_embedding"):
        if getattr(one.module, name, None) is not None:
            yield one.at(name), int(getattr(one.module, name).shape[-1])
    for name in ("conv_s0", "conv_s1"):
        if getattr(one.decoder, name, None) is not None:
            yield f"{decoder}.{name}", int(getattr(one.decoder, name).weight.shape[1])


def flags(one: Segmenter) -> Iterator[Violation]:
    """Model and decoder must agree whether fine feature maps are used, and how many there are."""
    uses = vars(one.module).get("use_high_res_features_in_sam")
    has = getattr(one.decoder, "conv_s0", None) is not None
    if uses is not None and bool(uses) != has:
        where = one.at("use_high_res_features_in_sam")
        told = f"{has}: {one.names[3]} {'has' if has else 'has no'} conv_s0 and conv_s1"
        yield Violation("fine features", where, told, str(uses), "build both with the same flag")
    levels = vars(one.module).get("num_feature_levels")
    if uses is not None and levels is not None and levels > len(one.strides):
        wanted = f"at most {len(one.strides)}, the maps that the neck hands on"
        yield Violation("fine features", one.at("num_feature_levels"), wanted, str(levels))


def _listed(found: Any) -> str:
    return ", ".join(map(shown, found)) or "none"


def _and(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
