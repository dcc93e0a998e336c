"""Modules that were extended: which tensors are not their own, and what they were before."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

EXTENSIONS = "_surgery_extensions"
"""Attribute of an extended module: its ``Extend`` edits by name, in order of placing."""

BASE = "_surgery_base"
"""Attribute of an extended module's class: the class that it had before, but for behaviours
without which it cannot run."""

BARE = "_surgery_bare"
"""Attribute of an extended module's class: the class that it had before, without any behaviour."""


_NONE: frozenset[str] = frozenset()


def own_tensors(module: nn.Module) -> frozenset[str]:
    """Give the names, relative to one module, of the tensors that extensions added to it."""
    table: dict[str, Any] | None = module.__dict__.get(EXTENSIONS)
    if not table:
        return _NONE
    return frozenset(name for e in table.values() for name in (*e.tensors, *e.shares))


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Give the class that a module had before it was extended; its own if it was not.

    Behaviours without which it cannot run are part of it.
    """
    return getattr(type(module), BASE, type(module))


def bare_class(module: nn.Module) -> type[nn.Module]:
    """Give the class that a module had before anything was done to it."""
    return getattr(type(module), BARE, type(module))


def extension_counts(model: nn.Module) -> dict[str, int]:
    """Count the modules that each extension was added to, by the extension's name."""
    tables = (module.__dict__.get(EXTENSIONS, {}) for module in model.modules())
    return dict(Counter(name for table in tables for name in table))
