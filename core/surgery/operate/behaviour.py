"""Behaviours: what an extended module does differently. Mixed into the module's own class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from surgery.anatomy.extended import BARE, BASE, EXTENSIONS, own_tensors

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

    Attributes:
        structural: True where the module's own class cannot run without it, because children
            that its forward calls are gone; the anatomy is then read with it.
        transparent: True where the module answers alike without it, so that a format which
            cannot hold it loses nothing.
    """

    structural: ClassVar[bool] = False
    transparent: ClassVar[bool] = False

    @classmethod
    def here(cls) -> type[Behaviour]:
        """Give the class itself, as ``Extend`` asks for it where no import is to be put off."""
        return cls

    def extensions(self, kind: type[_S]) -> Iterator[tuple[str, _S]]:
        """Give name and settings of this module's extensions that have settings of a kind."""
        table: dict[str, Extend] = self.__dict__[EXTENSIONS]
        return ((name, e.settings) for name, e in table.items() if isinstance(e.settings, kind))


class HeldInEval(Behaviour):
    """Stay in eval mode, with everything below, whatever mode a parent asks for."""

    transparent: ClassVar[bool] = True

    def train(self, mode: bool = True) -> Any:
        """Stay in eval mode; only adapters at and below follow the mode that was asked for."""
        super().train(False)  # type: ignore[misc]
        for child in cast("nn.Module", self).modules():
            follow = getattr(child, "follow_mode", None)
            if follow is not None:
                follow(mode)
        return self


_CLASSES: dict[tuple[type, type], type[nn.Module]] = {}


class _Printed(type):
    """Print a class as the one it was made of: libraries keep tables by what classes print."""

    def __repr__(cls) -> str:
        return repr(getattr(cls, BARE)) if hasattr(cls, BARE) else super().__repr__()


def _printed_as_bare(kind: type) -> type:
    """Give the metaclass of what is made of a class whose metaclass is ``kind``."""
    if issubclass(kind, _Printed):
        return kind
    return _Printed if kind is type else type("_Printed", (_Printed, kind), {})


def behaving(behaviour: type[Behaviour], base: type[nn.Module]) -> type[nn.Module]:
    """Give the class that is ``base`` with a behaviour in front; ``base`` if it has it already.

    The same two classes always give the same class.
    """
    if issubclass(base, behaviour):
        return base
    key = (behaviour, base)
    if key not in _CLASSES:
        names = {"__module__": __name__, BARE: getattr(base, BARE, base)}
        made = _printed_as_bare(type(base))(behaviour.__name__ + base.__name__, key, names)
        setattr(made, BASE, _read_as(behaviour, base, made))
        _CLASSES[key] = made
    return _CLASSES[key]


def _read_as(behaviour: type[Behaviour], base: type[nn.Module], made: type) -> type:
    """Give the class as which the anatomy reads a module."""
    plain = getattr(base, BASE, base)
    if not behaviour.structural:
        return plain
    return made if base is plain else behaving(behaviour, plain)


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
