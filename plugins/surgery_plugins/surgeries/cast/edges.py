"""What lets a part of a model run in a dtype of its own: features change at its edges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from surgery.anatomy.extended import EXTENSIONS
from surgery.operate.edits import Detach, Edit, Extend

if TYPE_CHECKING:
    from torch import Tensor, dtype, nn

    from surgery.operate.behaviour import Behaviour

NAME = "cast.edges"
"""Name of the extension."""


@dataclass(frozen=True)
class Edges:
    """Say in which dtype a part runs.

    Attributes:
        dtype: by torch's name.
    """

    dtype: str


def converted(paths: Iterable[str], to: str, modules: Mapping[str, nn.Module]) -> Iterator[Edit]:
    """Give the edits that make parts convert what goes in, and what comes out.

    Args:
        paths: the parts.
        to: their dtype by torch's name.
        modules: the model's modules by path.
    """
    for path in paths:
        if NAME in modules[path].__dict__.get(EXTENSIONS, {}):
            yield Detach(path, NAME)
        yield Extend(path, NAME, converting, Edges(to))


@cache
def converting() -> type[Behaviour]:
    """Give the behaviour."""
    from surgery.operate.behaviour import Behaviour
    from surgery.operate.dtypes import dtype_of

    class Converting(Behaviour):
        """Run in one dtype, and give the outputs in that of the first floating input."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            ((_, edges),) = self.extensions(Edges)
            first = next(floating((args, kwargs)), None)
            inside = dtype_of(edges.dtype)
            args, kwargs = in_dtype(args, inside), in_dtype(kwargs, inside)
            out = super().__call__(*args, **kwargs)  # type: ignore[misc]
            return out if first is None else in_dtype(out, first.dtype)

    return Converting


def floating(value: Any) -> Iterator[Tensor]:
    """Give the real floating tensors in tuples, lists and mappings, in order."""
    import torch

    if isinstance(value, torch.Tensor):
        yield from (value,) if value.is_floating_point() else ()
    elif isinstance(value, Mapping | tuple | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from floating(part)


def in_dtype(value: Any, to: dtype) -> Any:
    """Give a value with its real floating tensors in a dtype; containers keep their kind.

    Other objects, such as caches of keys and values, stay as they are.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(to) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        changed = {key: in_dtype(part, to) for key, part in value.items()}
        return changed if type(value) is dict else type(value)(**changed)
    if isinstance(value, tuple | list):
        parts = [in_dtype(part, to) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
