"""What trains of a model, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.anatomy.extended import own_tensors

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Share:
    """Say what a part of a model has.

    Attributes:
        trained: how many of its numbers train.
        count: how many there are.
        added: how many of them extensions brought.
    """

    trained: int = 0
    count: int = 0
    added: int = 0


def shares_of(model: nn.Module) -> Mapping[str, Share]:
    """Give what trains of each module and parameter, by path; ``""`` is the model, ties count once.

    Args:
        model: any module, on meta or with weights.
    """
    foreign = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in own_tensors(module)
    }
    found: dict[str, Share] = {}
    for name, tensor in model.named_parameters():
        count = tensor.numel()
        for path in _upwards(name):
            old = found.get(path, Share())
            found[path] = Share(
                old.trained + count * tensor.requires_grad,
                old.count + count,
                old.added + count * (name in foreign),
            )
    return found


def share_text(share: Share) -> str:
    """Say what trains: ``frozen``, ``trains``, or how much of it does."""
    if not share.trained:
        return "frozen"
    if share.trained == share.count:
        return "trains"
    return f"{min(max(share.trained / share.count, 1e-4), 0.9999):.2%} trains"


def _upwards(name: str) -> Iterator[str]:
    """Give a name and everything above it."""
    yield name
    while name:
        name = name.rpartition(".")[0]
        yield name
