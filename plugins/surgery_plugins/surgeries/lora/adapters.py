"""Switch adapters while a model runs: turn off, on, and scale them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from surgery.errors import SelectionError, did_you_mean
from surgery.anatomy.extended import EXTENSIONS
from surgery_plugins.surgeries.lora.branch import Branch

_FACTORS = "_lora_factors"


def branches(model: nn.Module) -> Iterator[tuple[str, nn.Module, Branch]]:
    """Give every adapter of a model: path and module, and the branch."""
    for path, module in model.named_modules():
        for extend in module.__dict__.get(EXTENSIONS, {}).values():
            if isinstance(extend.settings, Branch):
                yield path, module, extend.settings


def adapter_names(model: nn.Module) -> tuple[str, ...]:
    """Give the names of a model's adapters, in the order in which they were placed."""
    return tuple(dict.fromkeys(branch.adapter for _, _, branch in branches(model)))


def scale_adapter(model: nn.Module, name: str, factor: float) -> None:
    """Multiply an adapter's effect; 0 turns it off, 1 is as trained.

    Raises:
        SelectionError: the model has no adapter of that name.
    """
    found = [module for _, module, branch in branches(model) if branch.adapter == name]
    if not found:
        known = adapter_names(model)
        raise SelectionError(
            "adapter", "the name of an adapter", repr(name), did_you_mean(name, known)
        )
    for module in found:
        module.__dict__.setdefault(_FACTORS, {})[name] = factor


def select_adapters(model: nn.Module, *names: str) -> None:
    """Turn some adapters on and all others off."""
    for name in dict.fromkeys((*adapter_names(model), *names)):
        scale_adapter(model, name, 1.0 if name in names else 0.0)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Turn all adapters off for a while: the model answers as its base does."""
    found = {id(module): module for _, module, _ in branches(model)}.values()
    before = [(module, dict(module.__dict__.get(_FACTORS, {}))) for module in found]
    try:
        for name in adapter_names(model):
            scale_adapter(model, name, 0.0)
        yield
    finally:
        for module, factors in before:
            module.__dict__[_FACTORS] = factors


def factor(module: nn.Module, branch: Branch) -> float:
    """Give what an adapter's effect is multiplied with now."""
    factors: dict[str, float] | None = module.__dict__.get(_FACTORS)
    return 1.0 if factors is None else factors.get(branch.adapter, 1.0)
