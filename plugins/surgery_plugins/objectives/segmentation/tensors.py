"""Images and masks as tensors: read, fitted to the size a model takes, and stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torch.nn.utils.rnn import pad_sequence

from surgery.operate.objective import Batch, Sample
from surgery_plugins.objectives.segmentation.picture import Picture


def read(sample: Sample, prompt: bool) -> dict[str, Tensor]:
    """Read image and masks of a sample.

    Args:
        sample: ``image`` of ``(height, width, 3)`` bytes; ``mask``, and ``prompt`` where it is
            asked for, ``(height, width)``, not zero where the object is.
        prompt: whether a mask is the prompt.

    Returns:
        ``image`` ``(3, height, width)`` from 0 to 1, and masks ``(1, height, width)`` of 0 and 1.

    Raises:
        ValueError: something is missing, or sizes differ.
    """
    found = {"image": _image(sample)}
    for name in ("mask", "prompt") if prompt else ("mask",):
        if name not in sample:
            raise ValueError(f"a sample without `{name}`")
        mask = torch.as_tensor(sample[name])
        if mask.shape != found["image"].shape[1:]:
            sizes = [" x ".join(map(str, one)) for one in (mask.shape, found["image"].shape[1:])]
            raise ValueError(f"a {name} of {sizes[0]} pixels for an image of {sizes[1]}")
        found[name] = (mask != 0).float()[None]
    return found


def _image(sample: Sample) -> Tensor:
    if "image" not in sample:
        raise ValueError("a sample without `image`")
    image = torch.as_tensor(sample["image"])
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != torch.uint8:
        kind = str(image.dtype).removeprefix("torch.")
        raise ValueError(f"an image of shape {tuple(image.shape)} and {kind}, not bytes of RGB")
    return image.permute(2, 0, 1).float() / 255


def fitted(
    given: Mapping[str, Tensor], picture: Picture, fit: Literal["squash", "pad"]
) -> dict[str, Tensor]:
    """Bring image and masks to the size that the model takes, in the same way.

    Returns:
        ``pixel_values`` ``(3, height, width)``; ``target`` and ``valid`` ``(height, width)``;
        ``prompt_mask`` ``(1, height, width)`` where there is one.
    """
    size = inner = picture.size
    if fit == "pad":
        _, high, wide = given["image"].shape
        scale = min(size[0] / high, size[1] / wide)
        inner = (max(1, round(high * scale)), max(1, round(wide * scale)))
    room = (0, size[1] - inner[1], 0, size[0] - inner[0])
    mean, std = torch.tensor(picture.mean), torch.tensor(picture.std)
    image = (resized(given["image"], inner) - mean[:, None, None]) / std[:, None, None]
    found = {"pixel_values": pad(image, room), "valid": pad(torch.ones(inner), room) > 0}
    found["target"] = pad(resized(given["mask"], inner)[0], room) >= 0.5
    if "prompt" in given:
        found["prompt_mask"] = pad(resized(given["prompt"], inner), room)
    return found


def numbers(sample: Sample, note: str) -> Tensor:
    """Read numbers of a sample, ``(count,)``.

    Raises:
        ValueError: they are missing, or are no numbers.
    """
    found = sample.get(note)
    listed = found if isinstance(found, list) else [found]
    if not all(isinstance(one, int | float) for one in listed):
        raise ValueError(f"a sample without numbers under `{note}`")
    return torch.tensor(listed, dtype=torch.float32)


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(channels, height, width)`` by bilinear interpolation with antialiasing."""
    return interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


def stacked(encoded: Sequence[Mapping[str, Any]], padding: int) -> Batch:
    """Make a batch of encoded samples; token ids are padded on the right."""
    batch = {n: [one[n] for one in encoded] for n in encoded[0]}
    fill = {"input_ids": padding, "attention_mask": 0}
    return {
        name: pad_sequence(found, batch_first=True, padding_value=fill[name])
        if name in fill
        else torch.stack(found)
        for name, found in batch.items()
    }
