"""Conv1D and Linear in the place of each other."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor, nn

from surgery.anatomy.on_device import on_device
from surgery.operate.edits import Derive, Keep, Place, Value


def place(module: nn.Module, path: str) -> Place:
    """Give the edit that puts a Linear in the place of a Conv1D, or the other way round.

    Args:
        module: the one that is there; its weight is ``[in, out]`` of Conv1D, else ``[out, in]``.
        path: its path.
    """
    new = _other(module).to(next(module.parameters()).dtype).train(module.training)
    values: dict[str, Value] = {"weight": Derive((f"{path}.weight",), _transposed)}
    if module.bias is None:
        new._parameters["bias"] = None
    else:
        values["bias"] = Keep(f"{path}.bias")
    trained = frozenset(n for n, p in module.named_parameters() if p.requires_grad)
    return Place(path, new, values, trained)


def _other(module: Any) -> nn.Module:
    """Give a module of the other kind on meta."""
    from transformers.pytorch_utils import Conv1D

    first, second = module.weight.shape
    with on_device("meta"):
        if type(module).__name__ == "Conv1D":
            return nn.Linear(first, second)
        made: nn.Module = Conv1D(first, second)
        return made


def _transposed(weight: Tensor, generator: Generator) -> Tensor:
    return weight.mT
