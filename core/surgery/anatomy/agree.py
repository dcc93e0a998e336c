"""What kernels demand of dtypes and meta tensors let pass: operands that agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_CONTRACTIONS = frozenset({
    "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "mv", "dot", "addmm", "addmv",
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "multi_head_attention_forward",
})  # fmt: skip
"""Functions whose numbers must all have one dtype."""

_NORMS = frozenset({"layer_norm", "group_norm", "batch_norm", "instance_norm"})
"""Functions whose weights have the dtype of the input, or float32 where that is a half."""

_HALVES = frozenset({torch.float16, torch.bfloat16})

_MASKS = frozenset({"attn_mask", "key_padding_mask"})


def disagreement(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Say which dtypes of a call a kernel refuses (torch 2.13, on CPU); empty where it takes them.

    Args:
        name: the function's.
        args: its arguments, tensors on meta.
        kwargs: those with names.
    """
    if name == "__setitem__":
        return _put(*args)
    if name not in _CONTRACTIONS | _NORMS or _autocast():
        return ""
    first, *others = _numbers(args, kwargs) or [torch.float32]
    taken = {first, torch.float32} if name in _NORMS and first in _HALVES else {first}
    wrong = next((dtype for dtype in others if dtype not in taken), None)
    return "" if wrong is None else f"{name}: expected {_said(wrong)}, got {_said(first)}"


def _numbers(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.dtype]:
    """Give the dtypes of floating and complex operands, the input's first."""
    named = (value for key, value in kwargs.items() if key not in _MASKS)
    tensors = [value for value in (*args, *named) if isinstance(value, Tensor)]
    return [one.dtype for one in tensors if one.is_floating_point() or one.is_complex()]


def _put(into: Tensor, key: Any, value: Any) -> str:
    """Judge ``into[key] = value``; where tensors choose the places, nothing is converted."""
    keys = key if isinstance(key, tuple) else (key,)
    chosen = any(isinstance(one, Tensor) for one in keys)
    if not chosen or not isinstance(value, Tensor) or not value.dim() or value.dtype == into.dtype:
        return ""
    return f"index_put: expected {_said(into.dtype)}, got {_said(value.dtype)}"


def _autocast() -> bool:
    return any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))


def _said(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
