"""Build on a device, whatever else has patched torch's constructors before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import _device


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Do as ``with torch.device(device)``, but with constructors listed anew.

    torch lists its constructors once, when the first such block runs. transformers' loading puts
    another ``torch.linspace`` in place for as long as it builds a model; where that block was the
    first of the process, the list names the stand-in, and ``linspace`` gives tensors on the
    processor for ever after (torch 2.13, transformers 5.23).
    """
    listed = getattr(_device, "_device_constructors", None)
    if clear := getattr(listed, "cache_clear", None):
        clear()
    with torch.device(device):
        yield
