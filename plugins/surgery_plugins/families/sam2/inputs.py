"""Contracts of SAM 2 with what it is given: images, masks and feature maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from surgery.operate.family import Violation
from surgery_plugins.families.prompts import Size, pair, shown
from surgery_plugins.families.sam2.anatomy import Segmenter

_IMAGES = ("pixel_values", "img_batch", "images", "sample")
_MASKS = ("mask_inputs", "masks")
_MAPS = ("backbone_features", "image_embeddings", "image_embed")
_FINE = ("high_res_features", "high_resolution_features", "high_res_feats")
_POSITIONS = ("image_pe", "image_positional_embeddings")
"""Names of arguments in transformers and in Meta's code."""


def prepared(one: Segmenter, inputs: Mapping[str, Any]) -> Iterator[Violation]:
    """Check the tensors among a forward's inputs by their shapes, told apart by their names."""
    for name, value in inputs.items():
        where = f"inputs.{name}"
        if name in _IMAGES and hasattr(value, "ndim") and value.ndim >= 4:
            yield from _image(one, where, (int(value.shape[-2]), int(value.shape[-1])))
        elif name in _MASKS and hasattr(value, "shape"):
            yield from _mask(one, where, (int(value.shape[-2]), int(value.shape[-1])))
        elif name in _POSITIONS and hasattr(value, "shape"):
            yield from _positions(one, where, value)
        elif name in _MAPS:
            yield from _maps(one, where, value)
        elif name in _FINE:
            yield from _fine(one, where, value)


def _image(one: Segmenter, where: str, size: Size) -> Iterator[Violation]:
    if size == one.image:
        return
    near, stride = one.nearest(size), one.strides[-1]
    wanted = (
        f"{shown(one.image)} pixels: {shown(one.grid)} cells of {stride} pixels, as "
        f"{one.names[2]}.image_embedding_size says"
    )
    if size[0] % one.step or size[1] % one.step:
        left = f"no multiple of {one.step} (windows of {one.window}, cells of {stride})"
    else:
        left = f"{size[0] // stride} x {size[1] // stride} cells"
    mend = f"resize the image to {shown(one.image)}"
    if (near, near) != one.image:
        mend += f", or {one.remade(size)}"
    yield Violation("image size", where, wanted, f"{shown(size)} pixels, {left}", mend)


def _mask(one: Segmenter, where: str, size: Size) -> Iterator[Violation]:
    wanted = pair(one.encoder.mask_input_size)
    if size != wanted:
        side = f"{shown(wanted)}, {one.names[2]}.mask_input_size"
        mend = (
            f"resize masks to {shown(wanted)} with interpolate(mask.float(), size={wanted}, "
            'mode="bilinear", align_corners=False, antialias=True)'
        )
        yield Violation("mask size", where, side, shown(size), mend)


def _maps(one: Segmenter, where: str, value: Any) -> Iterator[Violation]:
    """The image's embedding must be the map whose grid the prompt encoder knows."""
    *fine, coarse = value if isinstance(value, list | tuple) else [value]
    if tuple(coarse.shape[-2:]) != one.grid:
        wanted = f"the feature map of {shown(one.grid)}, the coarsest in use"
        mend = "choose the map by its shape: the order of the list differs between interfaces"
        yield Violation("feature map", where, wanted, shown(tuple(coarse.shape[-2:])), mend)
    yield from _fine(one, where, fine) if fine else ()


def _fine(one: Segmenter, where: str, value: Any) -> Iterator[Violation]:
    """Fine maps must be the finer grids, finest first, and already projected by the decoder."""
    wanted = [(_projected(one, n), *one.cells(s)) for n, s in enumerate(one.strides[:-1])]
    found = [tuple(map(int, item.shape[-3:])) for item in value]
    if found != wanted:
        told = f"{_triples(wanted)} (channels, rows, columns), the output of conv_s0 and conv_s1"
        mend = "use forward_image, which projects them, and leave out the coarsest map"
        yield Violation("fine features", where, told, _triples(found), mend)


def _projected(one: Segmenter, level: int) -> int:
    convolution = getattr(one.decoder, f"conv_s{level}", None)
    if convolution is not None:
        return int(convolution.weight.shape[0])
    return int(one.decoder.iou_token.weight.shape[1])


def _positions(one: Segmenter, where: str, value: Any) -> Iterator[Violation]:
    """Positions are those of the prompt encoder, once for all images."""
    width = int(one.decoder.iou_token.weight.shape[1])
    wanted = (1, width, *one.grid)
    if tuple(value.shape) != wanted:
        found = " x ".join(map(str, value.shape))
        mend = f"use {one.names[2]}.get_dense_pe(), not a position encoding of the features"
        told = " x ".join(map(str, wanted))
        yield Violation("dense positions", where, f"{told}, once for all images", found, mend)


def _triples(found: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(" x ".join(map(str, one)) for one in found) or "none"
