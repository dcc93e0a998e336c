"""The selective scan of Mamba in plain torch, with a backward that is linear in length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

CHUNK = 64
"""Steps whose states are held at once; the backward computes them anew, chunk by chunk."""


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Run ``h[t] = exp(delta[t] * a) * h[t-1] + delta[t] * b[t] * u[t]``, ``y[t] = c[t] . h[t]``.

    Mamba, arXiv 2312.00752, equations 2 and 4 with zero-order hold on ``a`` alone, as its
    reference implementation has it. Time and memory of the backward are linear in length: only
    the states between chunks are kept.

    Args:
        u: inputs, ``[batch, length, channels]``.
        delta: step sizes, positive, shape of ``u``.
        a: decay rates, negative, ``[channels, states]``.
        b: input weights, ``[batch, length, states]``.
        c: output weights, ``[batch, length, states]``.

    Returns:
        ``y``, shape and dtype of ``u``.
    """
    result: Tensor = _Scan.apply(u, delta, a, b, c)  # type: ignore[no-untyped-call]
    return result


class _Scan(Function):
    """The scan as one differentiable operation."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """Scan chunk by chunk and keep the state before each."""
        state = u.new_zeros((u.shape[0], *a.shape))
        starts, out = [], []
        for part in _chunks(u.shape[1]):
            starts.append(state)
            states = _states(state, u[:, part], delta[:, part], a, b[:, part])
            out.append(torch.einsum("btdn,btn->btd", states, c[:, part]))
            state = states[:, -1]
        ctx.save_for_backward(u, delta, a, b, c, torch.stack(starts))
        return torch.cat(out, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Go through the chunks from the last, states computed anew."""
        u, delta, a, b, c, starts = ctx.saved_tensors
        du, ddelta, db, dc = map(torch.empty_like, (u, delta, b, c))
        da, carry = torch.zeros_like(a), torch.zeros_like(starts[0])
        for number, part in reversed(list(enumerate(_chunks(u.shape[1])))):
            inputs = (u[:, part], delta[:, part], a, b[:, part], c[:, part])
            found = _chunk_backward(starts[number], inputs, grad[:, part], carry)
            du[:, part], ddelta[:, part], share, db[:, part], dc[:, part], carry = found
            da += share
        return du, ddelta, da, db, dc


def _chunks(length: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK)]


def _states(state: Tensor, u: Tensor, delta: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Give the states of one chunk, ``[batch, steps, channels, states]``."""
    decay = torch.exp(delta[..., None] * a)
    added = (delta * u)[..., None] * b[:, :, None]
    found = []
    for step in range(u.shape[1]):
        state = torch.addcmul(added[:, step], decay[:, step], state)
        found.append(state)
    return torch.stack(found, 1)


def _chunk_backward(
    start: Tensor, inputs: tuple[Tensor, ...], grad: Tensor, carry: Tensor
) -> tuple[Tensor, ...]:
    """Give the gradients of one chunk's inputs, and of the state before it.

    Args:
        start: the state before the chunk.
        inputs: u, delta, a, b and c of the chunk.
        grad: gradient of the chunk's outputs.
        carry: gradient of its last state, from the chunks behind it.
    """
    u, delta, a, b, c = inputs
    states = _states(start, u, delta, a, b)
    decay = torch.exp(delta[..., None] * a)
    toward = grad[..., None] * c[:, :, None]  # gradient of each state, later ones added below
    for step in range(u.shape[1] - 1, -1, -1):
        toward[:, step] += carry
        carry = toward[:, step] * decay[:, step]
    before = torch.cat((start[:, None], states[:, :-1]), 1)
    exponent = toward * before * decay
    weighted = torch.einsum("btdn,btn->btd", toward, b)
    ddelta = torch.einsum("btdn,dn->btd", exponent, a) + weighted * u
    da = torch.einsum("btdn,btd->dn", exponent, delta)
    db = torch.einsum("btdn,btd->btn", toward, delta * u)
    dc = torch.einsum("btdn,btd->btn", states, grad)
    return weighted * delta, ddelta, da, db, dc, carry
