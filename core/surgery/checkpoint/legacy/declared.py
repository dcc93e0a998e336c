"""What a structure on meta declares about the tensors of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Declared:
    """The tensors that a model saves.

    Attributes:
        shapes: shape by name, tied tensors under each of their names.
        first: for each name, the first of those that the same tensor has.
        unsaved: names of buffers that older versions saved, and that are made anew today.
    """

    shapes: dict[str, Shape]
    first: dict[str, str]
    unsaved: frozenset[str]


def declared(model: nn.Module) -> Declared:
    """Read what a model declares; no values are needed."""
    import torch

    shapes: dict[str, Shape] = {}
    first: dict[str, str] = {}
    seen: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor):
            shapes[name] = tuple(tensor.shape)
            first[name] = seen.setdefault(id(tensor), name)
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return Declared(shapes, first, frozenset(buffers - shapes.keys()))
