"""Tables that keep their dtype: no cast of the model rounds them or drops an imaginary part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from surgery.anatomy.extended import EXTENSIONS
from surgery.operate.edits import Extend

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.operate.behaviour import Behaviour

NAME = "rope.hold"
"""Name of the extension."""


@dataclass(frozen=True)
class Held:
    """Name the tables of one module that keep their dtype.

    Attributes:
        tables: names of buffers.
    """

    tables: tuple[str, ...]


def hold(tables: Iterable[str], modules: Mapping[str, nn.Module]) -> Iterator[Extend]:
    """Give the edits that make tables keep their dtype, one for each module not held yet.

    Args:
        tables: dotted names of buffers.
        modules: the model's modules by path.
    """
    leaves: dict[str, list[str]] = {}
    for name in tables:
        path, _, leaf = name.rpartition(".")
        leaves.setdefault(path, []).append(leaf)
    for path, names in leaves.items():
        if NAME not in modules[path].__dict__.get(EXTENSIONS, {}):
            yield Extend(path, NAME, holding, Held(tuple(names)))


@cache
def holding() -> type[Behaviour]:
    """Give the behaviour."""
    from surgery.operate.behaviour import Behaviour

    class HoldTables(Behaviour):
        """Move tables with their module, and never cast them."""

        def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
            names = [name for _, held in self.extensions(Held) for name in held.tables]
            buffers: dict[str, Any] = self._buffers  # type: ignore[attr-defined]
            before = {name: buffers[name] for name in names if buffers.get(name) is not None}
            buffers.update(dict.fromkeys(before))
            try:
                result = super()._apply(fn, recurse)  # type: ignore[misc]
            finally:
                buffers.update(before)
            buffers.update({name: moved(table, fn) for name, table in before.items()})
            return result

    return HoldTables


def moved(table: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """Put a table where a function puts tensors, in its own dtype.

    Args:
        table: the table.
        fn: moves or casts a tensor, as ``Module.to`` does.
    """
    import torch

    found = fn(torch.empty(0, dtype=torch.float32, device=table.device))
    if found.device == table.device:
        return table
    if table.is_meta:
        return torch.empty_like(table, device=found.device)
    return table.to(found.device)
