"""Digests of tensors in memory: how a live base is recognised."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING

from surgery.checkpoint.memory import memory_of

if TYPE_CHECKING:
    from torch import Tensor


def digest_of(tensor: Tensor) -> str:
    """Give the sha256 of a tensor's dtype, shape and bytes, in hexadecimal."""
    plain = tensor.detach().cpu().contiguous()
    sink = sha256(f"{plain.dtype} {tuple(plain.shape)}\n".encode())
    if plain.numel():
        sink.update(memory_of(plain))
    return sink.hexdigest()


def digest_model(tensors: Iterable[tuple[str, Tensor, bool]]) -> str:
    """Give the sha256 over all persistent tensors of a model, by name.

    Args:
        tensors: name, tensor, and whether it is persistent.
    """
    lines = sorted(f"{name} {digest_of(t)}" for name, t, persistent in tensors if persistent)
    return sha256("\n".join(lines).encode()).hexdigest()
