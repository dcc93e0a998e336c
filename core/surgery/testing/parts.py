"""Parts of the zoo's models: attention in several layouts, an MLP, experts, and a layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 8
"""Features of the residual stream."""

HEADS = 2
SIDE = WIDTH // HEADS
"""Features of one head."""


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend, and put the heads beside each other.

    Args:
        q: ``(batch, heads, length, features)``.
        k: ``(batch, heads, other length, features)``.
        v: as ``k``.

    Returns:
        ``(batch, length, heads * features)``.
    """
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def in_heads(x: Tensor) -> Tensor:
    """Cut features into heads: ``(batch, length, width)`` to ``(batch, heads, length, side)``."""
    return x.reshape(*x.shape[:2], -1, SIDE).transpose(1, 2)


class SplitAttention(nn.Module):
    """Attend with four weights, one with a bias; the keys may come from another sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.k_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.v_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Map ``(batch, length, width)`` to the same, reading ``memory`` if it is given."""
        other = x if memory is None else memory
        q, k, v = map(in_heads, (self.q_proj(x), self.k_proj(other), self.v_proj(other)))
        answer: Tensor = self.o_proj(attend(q, k, v))
        return answer


class FusedAttention(nn.Module):
    """Attend with one weight for queries, keys and values; turned by a complex table."""

    table: Tensor

    def __init__(self, positions: int = 16) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        angles = torch.outer(torch.arange(positions).float(), torch.tensor([1.0, 0.1]))
        self.register_buffer("table", torch.polar(torch.ones_like(angles), angles))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, length, width)`` to the same."""
        q, k, v = map(in_heads, self.qkv(x).chunk(3, dim=-1))
        answer: Tensor = self.proj(attend(self._turned(q), self._turned(k), v))
        return answer

    def _turned(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        turned = pairs * self.table[: x.shape[-2]]
        return torch.view_as_real(turned).flatten(-2).to(x.dtype)


class GroupedAttention(nn.Module):
    """Attend with one weight whose rows are, group by group, two queries, a key and a value."""

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        self.groups = groups
        self.wqkv = nn.Linear(WIDTH, groups * 4 * SIDE, bias=False)
        self.wo = nn.Linear(groups * 2 * SIDE, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, length, width)`` to the same."""
        rows = self.wqkv(x).view(*x.shape[:2], self.groups, 4, SIDE)
        q, k, v = rows[..., :2, :], rows[..., 2, :], rows[..., 3, :]
        q = q.flatten(2, 3).transpose(1, 2)
        k, v = (one.transpose(1, 2).repeat_interleave(2, dim=1) for one in (k, v))
        answer: Tensor = self.wo(attend(q, k, v))
        return answer


class Mlp(nn.Module):
    """Map features through a gate."""

    def __init__(self, inner: int = 12) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, inner, bias=False)
        self.up_proj = nn.Linear(WIDTH, inner, bias=False)
        self.down_proj = nn.Linear(inner, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, length, width)`` to the same."""
        answer: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return answer


class Experts(nn.Module):
    """Map features through all experts, weighed by a router; their weights are two tensors."""

    def __init__(self, experts: int = 3, inner: int = 6) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, inner, WIDTH) / 3)
        self.down = nn.Parameter(torch.randn(experts, WIDTH, inner) / 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, length, width)`` to the same."""
        flat = x.flatten(0, 1)
        each = flat.expand(self.up.shape[0], *flat.shape)
        each = torch.bmm(F.gelu(torch.bmm(each, self.up.transpose(1, 2))), self.down.mT)
        share = self.router(flat).softmax(-1).T.unsqueeze(-1)
        mixed: Tensor = (each * share).sum(0)
        return mixed.view_as(x)


class Layer(nn.Module):
    """Add attention and an MLP to the residual stream.

    Args:
        attention: builds the attention.
        mlp: builds what follows it.
    """

    def __init__(
        self, attention: Callable[[], nn.Module], mlp: Callable[[], nn.Module] = Mlp
    ) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.mlp = attention(), mlp()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, length, width)`` to the same."""
        x = x + self.attention(self.norm_1(x))
        answer: Tensor = x + self.mlp(self.norm_2(x))
        return answer
