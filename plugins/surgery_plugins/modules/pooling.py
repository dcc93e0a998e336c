"""Connectors that merge or average neighbouring tokens."""

from __future__ import annotations

from math import isqrt
from typing import Any, cast, final

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from surgery.errors import RefusedError
from surgery_plugins.modules.connector import Connector, library, side_of
from surgery_plugins.modules.grid import shuffle


@final
class PatchMergerConnector(Connector):
    """Normalise each token, join the tokens of each block, project twice: Qwen-VL's merger.

    The layers are those of transformers' ``PatchMerger`` (``layer`` norm, Qwen2-VL) and
    ``Qwen2_5_VLPatchMerger`` (``rms`` norm), names included.
    """

    def __init__(
        self, in_features: int, out_features: int, factor: int, norm: str, grouped: bool
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.factor, self.grouped = factor, grouped
        merger = _merger(norm)(out_features, in_features, factor)
        self.ln_q, self.mlp = merger.ln_q, merger.mlp

    def connect(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Merge ``[batch, n, in_features]`` to ``[batch, n / factor ** 2, out_features]``.

        With ``grouped`` the tokens of a block already follow each other, as Qwen's towers
        give them; else they stand row by row.
        """
        normed = self.ln_q(tokens)
        wide = self.in_features * self.factor**2
        blocks = (
            normed.reshape(normed.shape[0], -1, wide)
            if self.grouped
            else shuffle(normed, self.factor)
        )
        return cast("Tensor", self.mlp(blocks))

    def out_tokens(self, n: int) -> int:
        """Give the number of blocks in n tokens."""
        if not self.grouped:
            return (side_of(n, self.factor, "patch_merger") // self.factor) ** 2
        if n % self.factor**2:
            wanted = f"a multiple of {self.factor**2} tokens"
            raise RefusedError("patch_merger", wanted, f"{n} tokens", "choose another factor")
        return n // self.factor**2


def _merger(norm: str) -> Any:
    models = library("patch_merger").models
    if norm == "rms":
        return models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLPatchMerger
    return models.qwen2_vl.modeling_qwen2_vl.PatchMerger


@final
class AveragePool(Connector):
    """Average the tokens of each block and project the mean."""

    def __init__(self, in_features: int, out_features: int, factor: int, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features, self.factor = in_features, out_features, factor
        self.proj = nn.Linear(in_features, out_features, bias=bias)

    def connect(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Average ``[batch, n, in_features]`` to ``[batch, n / factor ** 2, out_features]``."""
        return cast("Tensor", self.proj(_pooled(tokens, self.factor)))

    def out_tokens(self, n: int) -> int:
        """Give the number of blocks in a square of n tokens."""
        return (side_of(n, self.factor, "avg_pool") // self.factor) ** 2


@final
class NormedAveragePool(Connector):
    """Average the tokens of each block, normalise, project: Gemma3's connector.

    The norm is transformers' ``Gemma3RMSNorm`` (scale 1 + weight); the names are those of
    ``Gemma3MultiModalProjector``, whose matrix is ``[in, out]``.
    """

    def __init__(self, in_features: int, out_features: int, factor: int, eps: float) -> None:
        super().__init__()
        import torch

        self.in_features, self.out_features, self.factor = in_features, out_features, factor
        gemma = library("avg_pool").models.gemma3.modeling_gemma3
        self.mm_input_projection_weight = nn.Parameter(torch.empty(in_features, out_features))
        self.mm_soft_emb_norm = gemma.Gemma3RMSNorm(in_features, eps=eps)

    def connect(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Average ``[batch, n, in_features]`` to ``[batch, n / factor ** 2, out_features]``."""
        pooled = self.mm_soft_emb_norm(_pooled(tokens, self.factor))
        return cast("Tensor", (pooled @ self.mm_input_projection_weight).type_as(tokens))

    def out_tokens(self, n: int) -> int:
        """Give the number of blocks in a square of n tokens."""
        return (side_of(n, self.factor, "avg_pool") // self.factor) ** 2


def _pooled(tokens: Tensor, factor: int) -> Tensor:
    batch, n, width = tokens.shape
    side = isqrt(n)
    grid = tokens.transpose(1, 2).reshape(batch, width, side, side)
    return avg_pool2d(grid, factor).flatten(2).transpose(1, 2)
