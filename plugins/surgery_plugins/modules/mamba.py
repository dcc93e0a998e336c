"""The Mamba mixer, and the connector that runs it over an image in both directions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from surgery_plugins.modules.connector import Connector
from surgery_plugins.modules.scan import selective_scan


@final
class MambaMixer(nn.Module):
    """Mix along a sequence with a selective state space (Mamba, arXiv 2312.00752).

    Names and shapes of the tensors are those of the package ``mamba_ssm``, so its weights load.
    ``A_log`` and ``D`` are meant to stay in float32 and to be kept out of weight decay.
    """

    def __init__(
        self,
        width: int,
        d_inner: int,
        d_state: int,
        d_conv: int,
        dt_rank: int,
        conv_bias: bool,
        proj_bias: bool,
    ) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.dt_rank = d_inner, d_state, dt_rank
        self.in_proj = nn.Linear(width, 2 * d_inner, bias=proj_bias)
        self.conv1d = nn.Conv1d(
            d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1, bias=conv_bias
        )
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.empty(d_inner, d_state))
        self.D = nn.Parameter(torch.empty(d_inner))
        self.out_proj = nn.Linear(d_inner, width, bias=proj_bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix ``[batch, length, width]`` from the first token to the last, shape kept."""
        u, gate = self.in_proj(tokens).chunk(2, -1)
        u = silu(self.conv1d(u.transpose(1, 2))[..., : tokens.shape[1]].transpose(1, 2))
        sizes = [self.dt_rank, self.d_state, self.d_state]
        step, b, c = self.x_proj(u).split(sizes, -1)
        mixed = self._scan(u, self.dt_proj(step), b, c)
        return cast("Tensor", self.out_proj(mixed * silu(gate)))

    def _scan(self, u: Tensor, step: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """Scan in float32 or better; give the dtype of ``u``."""
        wide = torch.promote_types(u.dtype, torch.float32)
        a, d = -torch.exp(self.A_log.to(wide)), self.D.to(wide)
        u32, delta, b, c = (part.to(wide) for part in (u, softplus(step.to(wide)), b, c))
        kernel = fused_scan() if u.is_cuda and wide == torch.float32 else None
        scan = selective_scan if kernel is None else kernel
        return (scan(u32, delta, a, b, c) + d * u32).to(u.dtype)

    def keep_wide(self) -> None:
        """Have ``A_log`` and ``D`` in float32 at least, whatever the rest is in."""
        for name in ("A_log", "D"):
            tensor = getattr(self, name)
            wide = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
            setattr(self, name, nn.Parameter(wide))


def _first_a(rank: int, values: Tensor, generator: torch.Generator) -> None:
    values.copy_(torch.arange(1, values.shape[1] + 1, dtype=values.dtype).log().expand_as(values))


def _first_d(rank: int, values: Tensor, generator: torch.Generator) -> None:
    values.fill_(1.0)


def _first_step(rank: int, values: Tensor, generator: torch.Generator) -> None:
    low, high = torch.tensor([0.001, 0.1], dtype=values.dtype).log()
    step = (torch.rand(values.shape, generator=generator) * (high - low) + low).exp()
    values.copy_(step + torch.log(-torch.expm1(-step)))


def _first_rate(rank: int, values: Tensor, generator: torch.Generator) -> None:
    values.uniform_(-(rank**-0.5), rank**-0.5, generator=generator)


FIRST: dict[str, Callable[[int, Tensor, torch.Generator], None]] = {
    "A_log": _first_a,
    "D": _first_d,
    "dt_proj.bias": _first_step,
    "dt_proj.weight": _first_rate,
}
"""How those tensors of a mixer begin that begin otherwise than torch's layers do.

Called with ``dt_rank``, the tensor to fill in place and a generator. As in the paper's reference,
``A_log`` is log(1..states), ``D`` is one, the bias of ``dt_proj`` makes step sizes log-uniform in
[0.001, 0.1], and its weight is uniform within dt_rank ** -0.5.
"""


@cache
def fused_scan() -> Callable[..., Tensor] | None:
    """Give the kernel of ``mamba_ssm`` behind our scan's arguments; None where it is missing."""
    try:
        from mamba_ssm.ops.selective_scan_interface import (  # type: ignore[import-not-found]
            selective_scan_fn,
        )
    except ImportError:
        return None

    def scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        rows = [part.transpose(1, 2).contiguous() for part in (u, delta, b, c)]
        found: Any = selective_scan_fn(rows[0], rows[1], a, rows[2], rows[3])
        return cast("Tensor", found.transpose(1, 2))

    return scan


@final
class _BiBlock(nn.Module):
    """Mix forwards and backwards, take the mean, and add it to what came in."""

    def __init__(
        self, hidden: int, mixer: dict[str, Any], norm_first: bool, eps: float, dropout: float
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.norm = nn.LayerNorm(hidden, eps=eps)
        self.forward_block = MambaMixer(hidden, **mixer)
        self.backward_block = MambaMixer(hidden, **mixer)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix ``[batch, length, hidden]``, shape kept."""
        inside = self.norm(tokens) if self.norm_first else tokens
        back = self.backward_block(inside.flip(1)).flip(1)
        mixed = tokens + self.dropout((self.forward_block(inside) + back) / 2)
        return mixed if self.norm_first else cast("Tensor", self.norm(mixed))


@final
class BiMamba(Connector):
    """Mix all tokens in both directions and project; as many tokens come out as go in.

    The sizes inside are whole numbers (``d_inner``, not a factor): a factor does not give the
    same number back for every width.
    """

    def __init__(  # noqa: PLR0913
        self,
        in_features: int,
        out_features: int,
        hidden: int,
        depth: int,
        d_inner: int,
        d_state: int,
        d_conv: int,
        dt_rank: int,
        conv_bias: bool,
        proj_bias: bool,
        norm_first: bool,
        eps: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        mixer = {
            "d_inner": d_inner,
            "d_state": d_state,
            "d_conv": d_conv,
            "dt_rank": dt_rank,
            "conv_bias": conv_bias,
            "proj_bias": proj_bias,
        }
        self.input_proj = nn.Linear(in_features, hidden)
        self.blocks = nn.ModuleList(
            _BiBlock(hidden, mixer, norm_first, eps, dropout) for _ in range(depth)
        )
        self.final_norm = nn.LayerNorm(hidden, eps=eps)
        self.output_proj = nn.Linear(hidden, out_features)

    def connect(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mix ``[batch, n, in_features]`` to ``[batch, n, out_features]``.

        Tokens that a mask leaves out enter the first block as zeros.
        """
        hidden = self.input_proj(tokens)
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None].to(hidden.dtype)
        for block in self.blocks:
            hidden = block(hidden)
        return cast("Tensor", self.output_proj(self.final_norm(hidden)))
