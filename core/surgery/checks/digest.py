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


def digest_model(tensors: Iterable[tuple[str, Tensor, bool]], but: Iterable[str] = ()) -> str:
    """Give the sha256 over the persistent tensors of a model, by name.

    Args:
        tensors: name, tensor, and whether it is persistent.
        but: names of tensors whose values do not count, only their shapes; ties follow.
    """
    listed = list(tensors)
    left_out = {id(tensor) for name, tensor, _ in listed if name in set(but)}
    lines = sorted(
        f"{name} {tuple(tensor.shape) if id(tensor) in left_out else digest_of(tensor)}"
        for name, tensor, persistent in listed
        if persistent
    )
    return sha256("\n".join(lines).encode()).hexdigest()
