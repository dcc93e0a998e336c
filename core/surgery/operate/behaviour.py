"""Behaviours: what an extended module does differently. Mixed into the module's own class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from surgery.anatomy.extended import BASE, EXTENSIONS, own_tensors

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.edits import Extend

_S = TypeVar("_S")


class Behaviour:
    """Change what a module computes, with the help of extra tensors.

    A subclass is a stateless mixin: it is put in front of the module's own class, reads its
    settings with ``extensions`` and calls ``super().forward``. It may define
    ``follow_mode(mode)``, called with the mode a parent asked for even where the module is
    held in eval mode.
    """

    def extensions(self, kind: type[_S]) -> Iterator[tuple[str, _S]]:
        """Give name and settings of this module's extensions that have settings of a kind."""
        table: dict[str, Extend] = self.__dict__[EXTENSIONS]
        return ((name, e.settings) for name, e in table.items() if isinstance(e.settings, kind))


class HeldInEval(Behaviour):
    """Stay in eval mode, with everything below, whatever mode a parent asks for."""

    @classmethod
    def here(cls) -> type[HeldInEval]:
        """Give the class itself."""
        return cls

    def train(self, mode: bool = True) -> Any:
        """Stay in eval mode; only adapters at and below follow the mode that was asked for."""
        super().train(False)  # type: ignore[misc]
        for child in cast("nn.Module", self).modules():
            follow = getattr(child, "follow_mode", None)
            if follow is not None:
                follow(mode)
        return self


_CLASSES: dict[tuple[type, type], type[nn.Module]] = {}


def behaving(behaviour: type[Behaviour], base: type[nn.Module]) -> type[nn.Module]:
    """Give the class that is ``base`` with a behaviour in front; ``base`` if it has it already.

    The same two classes always give the same class.
    """
    if issubclass(base, behaviour):
        return base
    key = (behaviour, base)
    if key not in _CLASSES:
        names = {"__module__": __name__, BASE: getattr(base, BASE, base)}
        _CLASSES[key] = type(behaviour.__name__ + base.__name__, key, names)
    return _CLASSES[key]


def base_parameters(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Parameter]]:
    """Give the parameters below a module that no extension added, by dotted name.

    Args:
        module: where to begin.
        prefix: the module's own dotted path, put before each name.
    """
    for path, child in module.named_modules(prefix=prefix):
        added = own_tensors(child)
        for name, parameter in child.named_parameters(recurse=False):
            if name not in added:
                yield (f"{path}.{name}" if path else name), parameter
