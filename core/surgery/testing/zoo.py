"""The zoo: tiny patients of every build that surgeries meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surgery.anatomy.on_device import on_device
from surgery.operate.dtypes import dtype_of
from surgery.operate.patient import Patient
from surgery.operate.table import named_tensors
from surgery.testing.models import PIXELS, TOKENS, Convolutional, EncoderDecoder, Text, TwoTowers
from surgery.testing.parts import Experts, FusedAttention, GroupedAttention, Layer, SplitAttention

LENGTH = 5
"""Tokens of a text."""


@dataclass(frozen=True)
class Breed:
    """One kind of patient in the zoo.

    Attributes:
        build: builds the model; its values are drawn.
        inputs: names of the inputs of its forward.
    """

    build: Callable[[], nn.Module]
    inputs: tuple[str, ...]


def _text(layer: Callable[[], nn.Module], tied: bool = False) -> Breed:
    return Breed(lambda: Text(layer, tied), ("input_ids",))


def _split() -> nn.Module:
    return Layer(SplitAttention)


def _fused() -> nn.Module:
    return Layer(FusedAttention)


ZOO: Mapping[str, Breed] = {
    "split": _text(_split),
    "fused": _text(_fused),
    "grouped": _text(lambda: Layer(GroupedAttention)),
    "tied": _text(_split, tied=True),
    "two towers": Breed(lambda: TwoTowers(_split, _fused), ("input_ids", "pixels")),
    "encoder-decoder": Breed(EncoderDecoder, ("input_ids", "decoder_input_ids")),
    "experts": _text(lambda: Layer(SplitAttention, Experts)),
    "convolutional": Breed(Convolutional, ("pixels",)),
}
"""The breeds, by name."""


def patient(name: str, dtype: str = "float32", device: str = "cpu", seed: int = 0) -> Patient:
    """Build a patient of the zoo, in eval mode.

    Args:
        name: of the breed.
        dtype: of parameters and statistics, by torch's name; computed tables keep theirs.
        device: where; on ``meta`` it has no values.
        seed: what its values are drawn with.

    Returns:
        A patient with inputs for one forward.
    """
    breed = ZOO[name]
    with torch.random.fork_rng(devices=[]), on_device(device):
        torch.manual_seed(seed)
        model = breed.build().eval()
    for _, tensor, persistent in named_tensors(model):
        if tensor.is_floating_point() and persistent:
            tensor.data = tensor.data.to(dtype_of(dtype))
    return Patient(model, inputs={key: _input(key, dtype, device) for key in breed.inputs})


def _input(key: str, dtype: str, device: str) -> Tensor:
    if key == "pixels":
        image = torch.linspace(-1, 1, 2 * 3 * PIXELS**2).sin().view(2, 3, PIXELS, PIXELS)
        return image.to(device, dtype_of(dtype))
    start = 3 if key == "input_ids" else 7
    return (torch.arange(start, start + 2 * LENGTH).view(2, LENGTH) % TOKENS).to(device)
