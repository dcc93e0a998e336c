"""Names of dtypes, so that plans can be made without torch."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import dtype


@cache
def dtype_of(name: str) -> dtype:
    """Give the torch dtype of a name such as ``bfloat16``."""
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"no dtype is named {name!r}")
    return found


@cache
def name_of(kind: dtype) -> str:
    """Give the name of a torch dtype, such as ``bfloat16``."""
    return str(kind).removeprefix("torch.")


@cache
def drawing_dtype(name: str) -> dtype:
    """Give the dtype in which fresh values are drawn: at least float32, rounded once after."""
    import torch

    kind = dtype_of(name)
    return torch.float32 if kind.is_floating_point and kind.itemsize < 4 else kind
