"""Inputs for one forward, guessed from the model's signature and configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 6
"""Length of a guessed text, in tokens."""


def guesses(model: nn.Module, device: str = "meta") -> Iterator[dict[str, Any]]:
    """Give inputs worth trying, most complete first.

    Args:
        model: the model.
        device: where to make the tensors.
    """
    names = list(inspect.signature(model.forward).parameters)
    made = {name: value for name in names if (value := _make(name, model, device)) is not None}
    quiet = {name: False for name in ("use_cache",) if name in names}
    main = [name for name in _MAIN if name in made]
    if main:
        for length in _lengths(model, main):
            texts = {n: made[n].new_zeros((1, length)) for n in main if n == "input_ids"}
            yield {name: made[name] for name in main} | texts | quiet
    for name in main if len(main) > 1 else ():
        yield {name: made[name]} | quiet


def real_inputs(model: nn.Module, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Give inputs with values, on the model's device, for a forward that is compared.

    Args:
        model: the model.
        given: inputs that the caller knows; guessed if None.

    Raises:
        LookupError: no inputs can be guessed.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if given is not None:
        return {name: _move(value, device) for name, value in given.items()}
    for guess in guesses(model, "cpu"):
        return {name: _move(_varied(value), device) for name, value in guess.items()}
    raise LookupError("no inputs can be guessed from the signature of forward")


def valued(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Give inputs in which tensors on meta have values: masks of ones, varied numbers elsewhere.

    Args:
        inputs: by name; what has values keeps them.
        device: where to make and move tensors.
    """
    return {name: _move(_filled(name, value), device) for name, value in inputs.items()}


def _filled(name: str, value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_meta:
        return value
    if name.endswith("mask") or value.dtype == torch.bool:
        return torch.ones(value.shape, dtype=value.dtype)
    return _varied(value).to(value.dtype)


def _move(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _varied(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    generator = torch.Generator().manual_seed(0)
    if value.is_floating_point():
        return torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return torch.arange(value.numel()).reshape(value.shape) % 7


_MAIN = (
    "input_ids", "pixel_values", "input_features", "input_values", "decoder_input_ids",
    "pixel_values_videos", "input", "x",
)  # fmt: skip


def _lengths(model: nn.Module, names: list[str]) -> Iterator[int]:
    """Give lengths of text worth trying: where there is an image too, one place for each patch."""
    if {"input_ids", "pixel_values"} <= set(names):
        config = model.config
        told = _setting(config, "image_seq_length", "mm_tokens_per_image", "num_image_tokens")
        if isinstance(told, int):
            yield told
        size, patch = _setting(config, "image_size"), _setting(config, "patch_size")
        if isinstance(size, int) and isinstance(patch, int):
            yield (size // patch) ** 2
            yield (size // patch) ** 2 // 4
    yield TOKENS


def _make(name: str, model: nn.Module, device: str) -> Any:
    config = getattr(model, "config", None)
    if name in ("input_ids", "decoder_input_ids") and config is not None:
        return torch.zeros((1, TOKENS), dtype=torch.long, device=device)
    if name == "pixel_values" and config is not None:
        return _image(config, device)
    if name == "input_features" and config is not None:
        return _audio_features(config, device)
    if name == "input_values" and config is not None:
        return torch.zeros((1, 4000), device=device)
    return None


def _setting(config: Any, *names: str) -> Any:
    """Give the first setting of these names, in the configuration or in those inside it."""
    inside = [
        value
        for key, value in vars(config).items()
        if key.endswith("_config") and hasattr(value, "to_dict")
    ]
    for one in (*(i for i in inside if "vision" in str(type(i)).lower()), config, *inside):
        for name in names:
            value = getattr(one, name, None)
            if value is not None:
                return value
    return None


def _image(config: Any, device: str) -> Tensor:
    size = _setting(config, "image_size", "img_size", "input_size") or 224
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    channels = _setting(config, "num_channels", "in_channels", "in_chans") or 3
    frames = _setting(config, "num_frames")
    shape = (1, frames, channels, height, width) if frames else (1, channels, height, width)
    return torch.zeros(shape, device=device)


def _audio_features(config: Any, device: str) -> Tensor:
    bins = _setting(config, "num_mel_bins", "n_mels", "input_feat_per_channel") or 80
    positions = _setting(config, "max_source_positions")
    return torch.zeros((1, bins, 2 * positions if positions else 100), device=device)
