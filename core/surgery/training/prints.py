"""Fingerprints of tensors: whether a bit changed, without a copy."""

from __future__ import annotations

import torch
from torch import Tensor

_KINDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(tensor: Tensor) -> int:
    """Give a number that changes when any bit of a tensor changes.

    The sum of its bytes' words, and the sum of running sums of blocks, both modulo 2^64: any one
    changed word changes the first.

    Args:
        tensor: of any dtype and device.
    """
    words = _words(tensor)
    first = int(words.sum(dtype=torch.int64))
    blocks = words[: words.numel() // 64 * 64].view(-1, 64).sum(1, dtype=torch.int64)
    weights = torch.arange(1, blocks.numel() + 1, device=blocks.device)
    second = int((blocks * weights).sum())
    return (first * 1_000_003 + second) % 2**64


def share_changed(before: Tensor, after: Tensor, among: Tensor | None = None) -> float:
    """Give the share of numbers that are not equal bit for bit.

    Args:
        before: of any dtype.
        after: of its shape and dtype.
        among: which numbers count, of its shape; all if None. Where none does, the share is 1.
    """
    if not before.numel():
        return 0.0
    changed = _numbers(before) != _numbers(after)
    if among is None or before.is_complex():
        return float(changed.float().mean())
    count = int(among.sum())
    return int((changed & among.reshape(-1)).sum()) / count if count else 1.0


def _numbers(tensor: Tensor) -> Tensor:
    plain = tensor.detach().contiguous()
    plain = torch.view_as_real(plain) if plain.is_complex() else plain
    return plain.view(_KINDS[plain.element_size()]).reshape(-1)


def _words(tensor: Tensor) -> Tensor:
    return _numbers(tensor)


def local(tensor: Tensor) -> Tensor:
    """Give this process's part of a tensor that is spread over several."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[no-any-return]
