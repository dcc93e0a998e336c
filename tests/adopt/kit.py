"""Wrapped state dicts, as other tools write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from surgery.checkpoint.legacy.declared import Declared
from surgery.checkpoint.legacy.find import StateDict, entry_of

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

NAMES = ("a", "b", "enc", "dec", "layers", "0", "1", "model", "net")
LEAVES = ("weight", "bias", "scale")
INNER = (
    "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module", "_forward_module",
)  # fmt: skip
OUTER = (*INNER, "net", "model", "student", "base_model.model", "x.y")


def declared_as(shapes: Shapes) -> Declared:
    return Declared(shapes, {name: name for name in shapes}, frozenset())


def state_of(tensors: Mapping[str, torch.Tensor], key: str = "state_dict") -> StateDict:
    return StateDict(key, {name: entry_of(name, t, "file") for name, t in tensors.items()})


def hollow(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Tensors of some shapes, each with its own value."""
    return {n: torch.full(s, float(i)) for i, (n, s) in enumerate(shapes.items())}


def structures(names: tuple[str, ...] = NAMES, least: int = 1) -> st.SearchStrategy[Shapes]:
    path = st.lists(st.sampled_from(names), max_size=4)
    name = st.builds(lambda p, leaf: ".".join([*p, leaf]), path, st.sampled_from(LEAVES))
    shape = st.lists(st.integers(1, 3), max_size=3).map(tuple)
    return st.dictionaries(name, shape, min_size=least, max_size=8)


@st.composite
def wrappings(draw: st.DrawFn, names: list[str]) -> dict[str, str]:
    """Wrap modules of a model: every name below them gets the wrapper's, all names a prefix."""
    modules = sorted({".".join(n.split(".")[:d]) for n in names for d in range(n.count(".") + 1)})
    inner = draw(st.dictionaries(st.sampled_from(modules), st.sampled_from(INNER), max_size=3))
    outer = draw(st.lists(st.sampled_from(OUTER), max_size=3))
    return {name: ".".join([*outer, *wrapped(name, inner)]) for name in names}


def wrapped(name: str, inner: Mapping[str, str]) -> list[str]:
    *path, leaf = name.split(".")
    found = []
    for depth in range(len(path) + 1):
        above = ".".join(path[:depth])
        found += [inner[above]] if above in inner else []
        found += path[depth : depth + 1]
    return [*found, leaf]


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path
