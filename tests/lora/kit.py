"""Place adapters on tiny models as the core does: transaction, then fill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from surgery.anatomy.site import Site
from surgery.operate.fill import fill
from surgery.operate.patient import Patient
from surgery.operate.transaction import Transaction
from surgery_plugins.surgeries.lora import Lora

torch.set_num_threads(1)


def site(model: nn.Module, path: str, **more: Any) -> Site:
    """Describe a module, or a raw parameter, as the walker would."""
    owner = dict(model.named_modules()).get(path)
    weight = model.get_parameter(path if owner is None else f"{path}.weight")
    types = ("Parameter",) if owner is None else tuple(c.__name__ for c in type(owner).__mro__)
    axes: dict[str, Any] = {"out_axis": 0, "in_axis": 1}
    if "Conv1D" in types:
        axes = {"out_axis": 1, "in_axis": 0}
    if "Embedding" in types:
        axes = {"out_axis": 0, "in_axis": None}
    if owner is None and weight.ndim == 3:
        axes = {"out_axis": 1, "in_axis": 2}
    name = path if owner is None else f"{path}.weight"
    return Site(path, (path,), name, types, shape=tuple(weight.shape), **{**axes, **more})


def part(model: nn.Module, path: str, role: str, *ranges: tuple[int, int]) -> Site:
    """Describe some rows of a fused weight."""
    return site(model, path, roles=frozenset((role,)), rows={role: ranges})


def place(model: nn.Module, sites: Sequence[Site], lora: Lora | None = None, seed: int = 0) -> Any:
    """Give a model its adapters, the base frozen.

    Returns:
        The transaction.
    """
    lora = lora or Lora(rank=2)
    for one in sites:
        assert lora.refuse(one) is None, lora.refuse(one)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    transaction = Transaction(Patient(model))
    transaction.place(lora.operate(sites, transaction.patient), 0)
    fill(transaction.slots, seed)
    return transaction


def adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Give the adapters' tensors by name."""
    return {name: p for name, p in model.named_parameters() if ".lora_" in f".{name}"}


def stir(model: nn.Module, seed: int = 1) -> None:
    """Change every adapter tensor, so that the adapters take effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters(model).values():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise.to(parameter.dtype))
