"""See a tensor's memory as bytes, without numpy."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def memory_of(tensor: Tensor) -> memoryview:
    """Give the memory of a plain tensor; it is valid as long as the tensor lives.

    Args:
        tensor: a contiguous tensor on the CPU, of any dtype and shape.

    Raises:
        ValueError: the tensor holds no memory of its own, as on meta or on another device.
    """
    size = tensor.numel() * tensor.element_size()
    if not size:
        return memoryview(bytearray())
    if tensor.device.type != "cpu" or not tensor.is_contiguous() or not tensor.data_ptr():
        raise ValueError(f"no plain memory behind a tensor on {tensor.device}")
    return memoryview((ctypes.c_ubyte * size).from_address(tensor.data_ptr())).cast("B")
