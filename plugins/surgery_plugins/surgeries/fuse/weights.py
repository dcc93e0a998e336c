"""Modules that multiply with one matrix, built anew with other rows, and their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from surgery.errors import RefusedError
from surgery.operate.edits import Derive, Keep, Value
from surgery_plugins.surgeries.fuse.parts import KINDS
from surgery_plugins.surgeries.swap.own import check_own

Ranges = Sequence[tuple[int, int]]


def matrix_at(model: nn.Module, path: str, name: str) -> nn.Module:
    """Give a module that multiplies with one matrix of its own.

    Args:
        model: the model.
        path: the module's path.
        name: the surgery, for errors.

    Raises:
        RefusedError: it is another module, was extended, or shares its tensors.
    """
    check_own(model, path, name)
    module = model.get_submodule(path)
    if type(module).__name__ not in KINDS:
        raise RefusedError(f"{name}: {path}", f"a module of {' or '.join(KINDS)}",
                           f"a {type(module).__name__}")  # fmt: skip
    return module


def out_axis_of(module: nn.Module) -> int:
    """Give the axis of a weight that holds output rows: 0 of Linear, 1 of Conv1D."""
    return int(type(module).__name__ == "Conv1D")


def rows_of(module: nn.Module) -> int:
    """Give the number of output rows."""
    weight: Any = module.weight
    return int(weight.shape[out_axis_of(module)])


def with_rows(module: nn.Module, rows: int, bias: bool) -> nn.Module:
    """Give a module of the same kind on meta with another number of output rows.

    Args:
        module: the module whose kind, dtype, inputs and mode are taken.
        rows: how many output rows.
        bias: whether it has a bias.
    """
    old: Any = module.weight
    axis = out_axis_of(module)
    shape = (rows, old.shape[1]) if axis == 0 else (old.shape[0], rows)
    new = copy(module)
    new.__dict__["_parameters"] = {
        "weight": _empty(shape, old), "bias": _empty((rows,), old) if bias else None,
    }  # fmt: skip
    new.__dict__.update({"out_features": rows} if axis == 0 else {"nf": rows})
    return new


def _empty(shape: tuple[int, ...], like: Tensor) -> nn.Parameter:
    empty = torch.empty(shape, dtype=like.dtype, device="meta")
    return nn.Parameter(empty, requires_grad=like.requires_grad)


def joined_values(paths: Sequence[str], modules: Sequence[nn.Module]) -> dict[str, Value]:
    """Give the values of a fused module: the rows of its parts, one after the other.

    A part without a bias beside others that have one is given zeros, which add nothing.
    """
    axis = out_axis_of(modules[0])
    weights = tuple(f"{path}.weight" for path in paths)
    values: dict[str, Value] = {"weight": Derive(weights, partial(_put_together, axis=axis))}
    has = [module.bias is not None for module in modules]
    if any(has):
        biases = tuple(f"{path}.bias" for path, own in zip(paths, has, strict=True) if own)
        rows = tuple(0 if own else rows_of(m) for m, own in zip(modules, has, strict=True))
        values["bias"] = Derive(biases, partial(_with_zeros, zeros=rows))
    return values


def taken_values(path: str, module: nn.Module, ranges: Ranges) -> dict[str, Value]:
    """Give the values of one part of a fused module: its rows."""
    axis, rows = out_axis_of(module), tuple(ranges)
    if rows == ((0, rows_of(module)),):
        return {name: Keep(f"{path}.{name}") for name, _ in module.named_parameters()}
    values: dict[str, Value] = {
        "weight": Derive((f"{path}.weight",), partial(_taken, ranges=rows, axis=axis))
    }
    if module.bias is not None:
        values["bias"] = Derive((f"{path}.bias",), partial(_taken, ranges=rows, axis=0))
    return values


def differences(modules: Sequence[Any]) -> dict[str, list[str]]:
    """Give what parts of one weight must have in common, for each of them."""
    axes = [out_axis_of(module) for module in modules]
    inner = [m.weight.shape[1 - axis] for m, axis in zip(modules, axes, strict=True)]
    return {
        "class": [type(module).__name__ for module in modules],
        "number of inputs": [str(size) for size in inner],
        "dtype": [str(module.weight.dtype) for module in modules],
        "device": [str(module.weight.device) for module in modules],
        "bias": ["none" if module.bias is None else "a bias" for module in modules],
    }


def all_train(modules: Mapping[str, nn.Module]) -> bool:
    """Tell whether modules train; all of them do or none.

    Raises:
        RefusedError: some do and some do not.
    """
    flags = {n: p.requires_grad for path, m in modules.items() for n, p in _named(path, m)}
    if len(set(flags.values())) > 1:
        odd = next(name for name, trains in flags.items() if not trains)
        raise RefusedError(
            f"fuse: {odd}", "parts that all train or that are all frozen", "this alone frozen",
            "fuse before `freeze`, which can name rows",
        )  # fmt: skip
    return all(flags.values())


def _named(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((f"{path}.{name}", parameter) for name, parameter in module.named_parameters())


def _put_together(*parts: Tensor, axis: int, generator: Generator) -> Tensor:
    return torch.cat(parts, axis)


def _with_zeros(*parts: Tensor, zeros: tuple[int, ...], generator: Generator) -> Tensor:
    """Put biases together; a number of zeros stands for a part that has none."""
    left = iter(parts)
    return torch.cat([parts[0].new_zeros(n) if n else next(left) for n in zeros])


def _taken(whole: Tensor, ranges: Ranges, axis: int, generator: Generator) -> Tensor:
    return torch.cat([whole.narrow(axis, start, stop - start) for start, stop in ranges], axis)
