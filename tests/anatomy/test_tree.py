"""The tree of modules is the one that torch gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from surgery.anatomy.tree import paths_of

Shape = st.recursive(st.none() | st.just("shared"), lambda inner: st.lists(inner, max_size=3))


@given(Shape)
def test_every_path_as_torch_gives_it(shape: object) -> None:
    shared = nn.Sequential(nn.Linear(1, 1))
    model = built(shape, shared)
    model.register_module("gone", None)
    assert paths_of(model) == list(model.named_modules(remove_duplicate=False))


def built(shape: object, shared: nn.Module) -> nn.Module:
    if isinstance(shape, list):
        return nn.Sequential(*(built(one, shared) for one in shape))
    return shared if shape else nn.ReLU()
