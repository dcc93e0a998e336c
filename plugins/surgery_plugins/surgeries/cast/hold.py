"""What lets a model run whose tables have more precision than the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from surgery.anatomy.extended import EXTENSIONS
from surgery.operate.edits import Detach, Edit, Extend

if TYPE_CHECKING:
    from torch import Tensor, dtype, nn

    from surgery.operate.behaviour import Behaviour
    from surgery_plugins.surgeries.cast.choose import Found

NAME = "cast.hold"
"""Name of the extension."""

_RUNNING = "_surgery_cast_running"


@dataclass(frozen=True)
class Hold:
    """Say how one module uses tables that have more precision than what flows through it.

    Attributes:
        dtype: the dtype of what flows, by torch's name.
        parameters: names of parameters that its forward reads rounded to it.
        stored: whether tables are weights, from which positions become features here.
    """

    dtype: str
    parameters: tuple[str, ...]
    stored: bool = False


def hold(
    kept: Iterable[Found], to: str, modules: Mapping[str, nn.Module], whole: Collection[str]
) -> Iterator[Edit]:
    """Give the edits for the modules that hold tensors which stay wider than a dtype.

    Args:
        kept: these tensors.
        to: the dtype by torch's name.
        modules: the model's modules by path.
        whole: paths of those all of whose tensors were looked at; what they held is forgotten.
    """
    before = {path: found for path, module in modules.items() if (found := _held(module))}
    held: dict[str, list[Found]] = {}
    for one in kept:
        held.setdefault(one.name.rpartition(".")[0], []).append(one)
    for path in before:
        if path in held or path in whole:
            yield Detach(path, NAME)
    for path, tables in held.items():
        old = None if path in whole else before.get(path)
        yield Extend(path, NAME, holding, _joined(to, tables, old))


def _held(module: nn.Module) -> Hold | None:
    edit = module.__dict__.get(EXTENSIONS, {}).get(NAME)
    return None if edit is None else edit.settings


def _joined(to: str, tables: Iterable[Found], old: Hold | None) -> Hold:
    """Say how a module uses tables, and those of the same module that it held before."""
    found = list(tables)
    leaves = [one.name.rpartition(".")[2] for one in found if not one.buffer]
    stored = any(one.persistent or not one.buffer for one in found)
    if old is not None:
        leaves, stored = [*old.parameters, *leaves], stored or old.stored
    return Hold(to, tuple(dict.fromkeys(leaves)), stored)


@cache
def holding() -> type[Behaviour]:
    """Give the behaviour."""
    from surgery.operate.behaviour import Behaviour
    from surgery.operate.dtypes import dtype_of

    class HoldTables(Behaviour):
        """Round learned tables as the forward reads them, and what it gives if it rounds.

        What flows keeps its dtype: where a floating input has the dtype, or positions become
        features, wider outputs are rounded to it. Computed tables are given as they are.
        """

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            (held,) = (one for _, one in self.extensions(Hold))
            outer = _RUNNING in self.__dict__
            self.__dict__[_RUNNING] = held
            try:
                out = super().__call__(*args, **kwargs)  # type: ignore[misc]
            finally:
                if not outer:
                    del self.__dict__[_RUNNING]
            kind = dtype_of(held.dtype)
            given = _floating((args, tuple(kwargs.values())))
            flows = any(held.stored or tensor.dtype == kind for tensor in given)
            return _rounded(out, kind) if flows else out

        def __getattr__(self, name: str) -> Any:
            value = super().__getattr__(name)  # type: ignore[misc]
            held = self.__dict__.get(_RUNNING)
            return value.to(dtype_of(held.dtype)) if held and name in held.parameters else value

    return HoldTables


def _floating(values: tuple[Any, ...]) -> Iterator[Tensor]:
    import torch

    for value in values:
        if isinstance(value, tuple | list):
            yield from _floating(tuple(value))
        elif isinstance(value, torch.Tensor) and value.is_floating_point():
            yield value


def _rounded(value: Any, kind: dtype) -> Any:
    """Round wider tensors in plain tuples and lists; anything else stays."""
    import torch

    if isinstance(value, torch.Tensor):
        wider = value.is_floating_point() and value.dtype.itemsize > kind.itemsize
        return value.to(kind) if wider else value
    if type(value) in (tuple, list):
        return type(value)(_rounded(item, kind) for item in value)
    return value
