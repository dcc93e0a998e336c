"""Contracts of vision-language models between images, connector and places in the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

from surgery.operate.family import Violation
from surgery_plugins.families.prompts import Size, below, shown
from surgery_plugins.families.towers import Tower, gives, reads

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Pictures:
    """How a model turns an image into tokens of its language model.

    Attributes:
        path: the connector.
        connector: the same.
        tower: the vision tower.
        text: rows and width of the language model's table of tokens.
        joined: side of the blocks of patches that become one token.
        layers: how many layers of the tower the connector reads, side by side.
        kept: how many class tokens the connector gets.
        latents: number of tokens for any image, where that is fixed.
        image_id: the token that stands for a place in the prompt, and where that is stated.
    """

    path: str
    connector: nn.Module
    tower: Tower
    text: tuple[int, int] | None
    joined: int = 1
    layers: int = 1
    kept: int = 0
    latents: int | None = None
    image_id: tuple[str, int] | None = None

    def tokens(self, patches: int) -> int:
        """Give how many tokens an image becomes, by the number of its patches."""
        return self.latents or (patches + self.kept) // self.joined**2


def connected(one: Pictures) -> Iterator[Violation]:
    """Check the widths of a connector against the tower and the language model."""
    first, last = reads(one.connector), gives(one.connector)
    wanted = one.tower.width * one.layers * one.joined**2
    if first is not None and first[1] != wanted:
        times = f" x {one.layers} layers" if one.layers > 1 else ""
        times += f" x {one.joined} x {one.joined} patches joined" if one.joined > 1 else ""
        told = f"{wanted}, the width {one.tower.width} of {one.tower.path}{times}"
        where = below(one.path, first[0])
        yield Violation("connector input", where, told, str(first[1]), _REBUILD)
    if last is not None and one.text is not None and last[1] != one.text[1]:
        told = f"{one.text[1]}, the width of the language model's tokens"
        where = below(one.path, last[0])
        yield Violation("connector output", where, told, str(last[1]), _REBUILD)


def positioned(one: Pictures) -> Iterator[Violation]:
    """Check the tower's table of positions against its image and patches."""
    tower = one.tower
    if tower.image is None:
        return
    cells = _cells(tower.image, tower.patch)
    if cells[0] * cells[1] != tower.patches:
        side = isqrt(tower.patches)
        near = f", such as {shown((side * tower.patch[0], side * tower.patch[1]))} pixels"
        wanted = f"{cells[0] * cells[1] + tower.before} rows: {shown(cells)} patches"
        wanted += f" of {shown(tower.image)} pixels and {tower.before} class tokens"
        mend = "resample it with `use: pos_embed`, or state the image size that it is for"
        mend += near if side**2 == tower.patches else ""
        yield Violation("position table", tower.table, wanted, f"{tower.rows} rows", mend)
    elif cells[0] % one.joined or cells[1] % one.joined:
        wanted = f"a grid of patches whose sides are multiples of {one.joined}"
        where = f"{tower.path}.config.image_size"
        steps = (tower.patch[0] * one.joined, tower.patch[1] * one.joined)
        yield Violation("joined patches", where, wanted, shown(cells), _near(tower.image, steps))


def counted(
    one: Pictures, stated: Mapping[str, Any], patches: int | None = None
) -> Iterator[Violation]:
    """Check every place that states how many tokens an image has in the prompt.

    Args:
        one: the model's pictures.
        stated: numbers by where they stand; None where nothing is stated.
        patches: how many an image is cut into; None for as many as the table has.
    """
    patches = one.tower.patches if patches is None else patches
    wanted = one.tokens(patches)
    why = f"{wanted}, the tokens that {one.path} gives for {patches} patches"
    for where, found in stated.items():
        if found is not None and found != wanted:
            mend = f"set {where} to {wanted}"
            yield Violation("places in the prompt", where, why, str(found), mend)


def named(one: Pictures, ids: Mapping[str, int | None]) -> Iterator[Violation]:
    """Check the token that stands for an image: it is in the table, and the tokenizer's own."""
    if one.image_id is None:
        return
    where, stated = one.image_id
    if one.text is not None and stated >= one.text[0]:
        wanted = f"an id below {one.text[0]}, the rows of the embedding"
        yield Violation("image token", where, wanted, str(stated), "add rows with `use: tokens`")
    for other, found in ids.items():
        if found is not None and found != stated:
            mend = f"set {where} to {found}, or use the tokenizer that the model was made with"
            yield Violation("image token", where, f"{found}, as {other}", str(stated), mend)


def given(one: Pictures, inputs: Mapping[str, Any]) -> Iterator[Violation]:
    """Check images and places among a forward's inputs."""
    images = inputs.get("pixel_values")
    if not hasattr(images, "ndim") or images is None or images.ndim not in (4, 5):
        return
    size = (int(images.shape[-2]), int(images.shape[-1]))
    found = list(_image(one, size))
    yield from found
    ids = inputs.get("input_ids")
    if not found and hasattr(ids, "shape"):
        cells = _cells(size, one.tower.patch)
        count = int(images.shape[0]) * (int(images.shape[1]) if images.ndim == 5 else 1)
        yield from _places(one, ids, count, one.tokens(cells[0] * cells[1]))


def _image(one: Pictures, size: Size) -> Iterator[Violation]:
    tower, where = one.tower, "inputs.pixel_values"
    if tower.fixed and tower.image is not None and size != tower.image:
        cells = shown(_cells(tower.image, tower.patch))
        wanted = f"{shown(tower.image)} pixels: {cells} patches of {shown(tower.patch)}, as "
        wanted += f"{tower.table} has"
        mend = f"resize the image to {shown(tower.image)}, or change the model with "
        mend += f"`use: pos_embed, with: {{image_size: {_multiple(max(size), one)}}}`"
        yield Violation("image size", where, wanted, f"{shown(size)} pixels", mend)
        return
    steps = (tower.patch[0] * one.joined, tower.patch[1] * one.joined)
    square = one.joined == 1 or _cells(size, tower.patch)[0] == _cells(size, tower.patch)[1]
    if size[0] % steps[0] or size[1] % steps[1] or not square:
        wanted = f"sides that are multiples of {shown(steps)} pixels: patches of "
        wanted += shown(tower.patch)
        if one.joined > 1:
            wanted += f" x {one.joined} joined, as those of a square grid"
        sides = size if square else (max(size), max(size))
        yield Violation("image size", where, wanted, f"{shown(size)} pixels", _near(sides, steps))


def _places(one: Pictures, ids: Any, images: int, each: int) -> Iterator[Violation]:
    """Count the places for images in prompts; of prompts without values, the length alone."""
    needed = images * each
    why = f"{needed} places: {images} {'image' if images == 1 else 'images'} of {each} tokens"
    mend = f"repeat the image token {each} times for each image"
    if ids.is_meta:
        if ids.shape.numel() < needed:
            told = f"{ids.shape.numel()} tokens in all"
            yield Violation("places in the prompt", "inputs.input_ids", why, told, mend)
    elif one.image_id is not None:
        found = int((ids == one.image_id[1]).sum())
        if found != needed:
            told = f"{found} of id {one.image_id[1]}"
            yield Violation("places in the prompt", "inputs.input_ids", why, told, mend)


def _cells(size: Size, patch: Size) -> Size:
    return size[0] // patch[0], size[1] // patch[1]


def _multiple(side: int, one: Pictures) -> int:
    step = one.tower.patch[0] * one.joined
    return max(round(side / step), 1) * step


def _near(size: Size, steps: Size) -> str:
    near = " x ".join(str(max(round(a / b), 1) * b) for a, b in zip(size, steps, strict=True))
    return f"use images of {near} pixels"


_REBUILD = "rebuild the connector with `use: resampler`"
