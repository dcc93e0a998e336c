"""A frozen linear layer and its adapter as one function, with the fewest products.

Autograd over the plain form keeps and adds more: a scaled copy of the outputs, their cast, and
one more gradient of the input. Here the adapter is cast to the activations' dtype, never the
activations to the adapter's, the low-rank part is added into the outputs in place, and the
gradient of the input is one buffer.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_HALF = (torch.bfloat16, torch.float16)


def fused_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
) -> Tensor:
    """Give ``weight x + bias + scale * B (A x)``; with B = 0 every bit as without the adapter.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]``, frozen; of the dtype of ``x`` unless autocast says another.
        bias: ``[out]``, or None.
        a: ``[r, in]``.
        b: ``[out, r]``.
        scale: the factor in front.

    Returns:
        ``[..., out]``, in the dtype that ``x`` or autocast has.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
        x, weight = x.to(kind), weight.to(kind)
        bias = None if bias is None else bias.to(kind)
    found: Tensor = _Fused.apply(x, weight, bias, a, b, scale)  # type: ignore[no-untyped-call]
    return found


def can_fuse(x: Tensor, weight: Any) -> bool:
    """Tell whether tensors are such that a linear layer and its adapter can be one function.

    Args:
        x: the layer's input; on meta autocast cannot be asked for.
        weight: its weight: frozen, no tensor with arithmetic of its own, of the input's dtype.
    """
    if x.is_meta or weight.requires_grad or type(weight) not in (nn.Parameter, Tensor):
        return False
    same = x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type)
    return same and x.is_floating_point() and weight.is_floating_point()


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            kind = _working(x)
            out = F.linear(flat, weight, bias)
            low = flat.to(kind) @ a.to(kind).t()
            _add(out, low, (b * scale).to(kind).t())
        ctx.save_for_backward(x, low.to(x.dtype), weight, a, b)
        ctx.scale, ctx.bias = scale, None if bias is None else bias.dtype
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, low, weight, a, b = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            kind = _working(x)
            flat, grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1]).to(kind)
            if torch.is_grad_enabled():  # differentiated again, so it must follow from x and A
                low = flat.to(kind) @ a.to(kind).t()
            back = grad @ (b * ctx.scale).to(kind)
            gx = gbias = ga = gb = None
            wanted = ctx.needs_input_grad
            if wanted[0]:
                gx = (grad @ weight.to(kind)).addmm_(back, a.to(kind)).to(x.dtype).view(x.shape)
            if wanted[2]:
                gbias = grad.sum(0).to(ctx.bias)
            if wanted[3]:
                ga = (back.t() @ flat.to(kind)).to(a.dtype)
            if wanted[4]:
                gb = (low.to(kind).t() @ grad).t().to(b.dtype) * ctx.scale
        return gx, None, gbias, ga, gb, None


def _add(out: Tensor, low: Tensor, b: Tensor) -> None:
    """Add a product to the outputs in place, rounded once."""
    if out.dtype == low.dtype:
        out.addmm_(low, b)
    else:
        out.add_(low @ b)


def _working(x: Tensor) -> torch.dtype:
    """Give the dtype to multiply in: float32 for halves where a processor has no kernels for them.

    It is many times faster there, and rounds once.
    """
    emulated = x.device.type == "cpu" and x.dtype in _HALF and _emulates()
    return torch.float32 if emulated else x.dtype


@cache
def _emulates() -> bool:
    return torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2")
