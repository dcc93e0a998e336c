"""Containers: modules that hold tensors under names and compute nothing, for bare state dicts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from surgery.anatomy.extended import plain_class


class Container(nn.Module):
    """Hold tensors and containers by name; there is no forward."""

    def below(self, name: str) -> Container:
        """Give the container of a name in this one, made where there is none."""
        modules = self._modules  # not getattr: a part of a name may be that of a method
        if name not in modules:
            modules[name] = Container()
        return cast("Container", modules[name])


def tree_of(tensors: Iterable[tuple[str, Tensor]]) -> Container:
    """Build the containers that a state dict's names describe; nothing takes gradients.

    A name may be that of a tensor and the beginning of other names too.

    Args:
        tensors: by dotted name, of any dtype.
    """
    root = Container()
    for name, tensor in tensors:
        *path, leaf = name.split(".")
        holder = root
        for part in path:
            holder = holder.below(part)
        holder._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    return root.eval()


def is_container(module: nn.Module) -> bool:
    """Tell whether a module is a container, extended or not."""
    return issubclass(plain_class(module), Container)
