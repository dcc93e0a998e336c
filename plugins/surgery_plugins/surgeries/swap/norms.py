"""Norms: what one computes is measured, and torch's own stands in its place."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from surgery.anatomy.stand_in import twin
from surgery.errors import RefusedError
from surgery.operate.edits import Derive, Init, Keep, Place, Value

RMS, LAYER = "rms_norm", "layer_norm"


@dataclass(frozen=True)
class Measured:
    """What a norm computes.

    Attributes:
        kind: ``rms_norm`` or ``layer_norm``, as torch defines them.
        plus_one: True where it multiplies with 1 + weight.
        eps: what it adds to the mean of squares, or to the variance.
    """

    kind: str
    plus_one: bool
    eps: float


def measured(module: nn.Module, path: str) -> Measured:
    """Find out what a norm computes: run with drawn weights, in float32, beside torch's norms.

    Args:
        module: the norm; it is copied.
        path: its path, for errors.

    Raises:
        RefusedError: it computes something else.
    """
    weight = module._parameters["weight"]
    assert weight is not None
    generator = torch.Generator().manual_seed(0)
    copy = _drawn(module, generator)
    inputs = torch.randn(9, weight.numel(), generator=generator) + 0.5
    inputs = inputs * torch.logspace(-4, 2, 9).unsqueeze(1)
    try:
        with torch.no_grad():
            output = copy(inputs)
    except Exception as error:
        raise _unknown(path, f"{type(error).__name__}: {error}") from None
    for guess in _guesses(module):
        wanted = _compute(guess, inputs, copy)
        if output.shape == wanted.shape and torch.allclose(output, wanted, 1e-4, 1e-5):
            return guess
    raise _unknown(path, f"a {type(module).__name__}, which gives neither")


def place(kind: str, module: nn.Module, path: str, drop_bias: bool) -> Place:
    """Give the edit that puts torch's norm in the place of one.

    Args:
        kind: ``rms_norm`` or ``layer_norm``.
        module: the norm that is there.
        path: its path.
        drop_bias: whether a bias that has no place is left out.

    Raises:
        RefusedError: it has a bias that has no place, or is that norm already.
    """
    found, weight = measured(module, path), module._parameters["weight"]
    assert weight is not None
    target: type[nn.RMSNorm | nn.LayerNorm] = nn.RMSNorm if kind == RMS else nn.LayerNorm
    if type(module) is target:
        raise RefusedError(f"swap: {path}", f"another norm than {target.__name__}", "that one")
    if kind == RMS and module._parameters.get("bias") is not None and not drop_bias:
        raise RefusedError(
            f"swap: {path}", "a norm without a bias, as RMSNorm has none", "one with a bias",
            "write `drop_bias: true` to leave it out",
        )  # fmt: skip
    new = target(weight.numel(), eps=found.eps, device="meta", dtype=weight.dtype)
    new.train(module.training)
    values = dict(_values(new, module, path, found))
    trained = frozenset(n for n in values if _trains(n, module))
    return Place(path, new, values, trained)


def _values(
    new: nn.Module, old: nn.Module, path: str, found: Measured
) -> Iterator[tuple[str, Value]]:
    weight = f"{path}.weight"
    yield "weight", Derive((weight,), _plus_one) if found.plus_one else Keep(weight)
    if "bias" in new._parameters:
        has = old._parameters.get("bias") is not None
        yield "bias", Keep(f"{path}.bias") if has else Init(_zeros)


def _trains(name: str, old: nn.Module) -> bool:
    """Tell whether a tensor trains: as the old one did; a new bias as the old weight did."""
    held = old._parameters.get(name)
    held = old._parameters["weight"] if held is None else held
    return held is not None and held.requires_grad


def _plus_one(weight: Tensor, generator: Generator) -> Tensor:
    return 1.0 + weight.float()


def _zeros(values: Tensor, generator: Generator) -> None:
    values.zero_()


def _drawn(module: nn.Module, generator: Generator) -> nn.Module:
    """Give a copy in float32 on the CPU with drawn weights."""
    copy = deepcopy(twin(module)).float().to_empty(device="cpu")
    with torch.no_grad():
        for tensor in copy.parameters():
            tensor.normal_(0.5, 1.0, generator=generator)
    return copy.eval()


def _guesses(module: nn.Module) -> Iterator[Measured]:
    numbers = (v for v in vars(module).values() if type(v) is float and 0 < v < 0.01)
    for eps in dict.fromkeys(numbers):
        yield Measured(RMS, False, eps)
        yield Measured(RMS, True, eps)
        yield Measured(LAYER, False, eps)


def _compute(guess: Measured, x: Tensor, module: nn.Module) -> Tensor:
    weight: Any = module._parameters["weight"]
    bias = module._parameters.get("bias")
    if guess.kind == LAYER:
        return F.layer_norm(x, weight.shape, weight, bias, guess.eps)
    return F.rms_norm(x, weight.shape, weight + guess.plus_one, guess.eps)


def _unknown(path: str, found: str) -> RefusedError:
    return RefusedError(
        f"swap: {path}", "a norm by the mean of squares, or by mean and variance", found,
        "leave it out",
    )  # fmt: skip
