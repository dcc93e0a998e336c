"""Structures are on meta even where a library's patch was listed as a constructor."""

import pytest
import torch
from torch.utils._device import _device_constructors

from surgery.anatomy.on_device import on_device


def test_linspace_is_on_meta_after_it_was_listed_while_patched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _device_constructors.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(torch, "linspace", lambda *sizes: torch.zeros(3))
        with torch.device("meta"):
            torch.zeros(1)
    with torch.device("meta"):
        assert torch.linspace(0, 1, 3).device.type == "cpu", "torch lists anew; simplify"
    with on_device("meta"):
        assert torch.linspace(0, 1, 3).is_meta
    with torch.device("meta"):
        assert torch.linspace(0, 1, 3).is_meta
