"""The C-Abstractor: convolutions, an average pool to a fixed grid, convolutions, a readout."""

from __future__ import annotations

from math import isqrt
from typing import cast, final

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from surgery.errors import RefusedError
from surgery_plugins.modules.connector import Connector, activation, side_of


@final
class _Squeeze(nn.Module):
    """Scale channels by what the whole image says of them (squeeze-excite, arXiv 1709.01507)."""

    def __init__(self, width: int, squeezed: int, act: str) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Conv2d(width, squeezed, 1),
            activation(act),
            nn.Conv2d(squeezed, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Scale ``[batch, width, side, side]``."""
        return cast("Tensor", image * self.fc(image.mean((2, 3), keepdim=True)))


@final
class _Block(nn.Module):
    """Convolve each channel, widen, squeeze, narrow, and add: an inverted bottleneck."""

    def __init__(self, hidden: int, kernel: int, expanded: int, squeezed: int, act: str) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.norm = nn.GroupNorm(1, hidden)
        self.pw1 = nn.Conv2d(hidden, expanded, 1)
        self.act = activation(act)
        self.se = _Squeeze(expanded, squeezed, act)
        self.pw2 = nn.Conv2d(expanded, hidden, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Convolve ``[batch, hidden, side, side]``, shape kept."""
        wide = self.act(self.pw1(self.norm(self.dwconv(image))))
        return cast("Tensor", image + self.pw2(self.se(wide)))


@final
class CAbstractor(Connector):
    """Abstract a grid of tokens to a smaller one with convolutions (arXiv 2312.06742).

    As in the paper: convolutional blocks, adaptive average pooling, blocks, a two-layer readout;
    the blocks are inverted bottlenecks with squeeze-excite and an odd kernel.
    """

    def __init__(  # noqa: PLR0913
        self,
        in_features: int,
        out_features: int,
        hidden: int,
        kernel: int,
        expanded: int,
        squeezed: int,
        depth: int,
        side: int,
        act: str,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise RefusedError("c_abstractor.kernel", "an odd number", f"{kernel}")
        self.in_features, self.out_features, self.side = in_features, out_features, side
        self.proj_in = nn.Linear(in_features, hidden)
        shape = (hidden, kernel, expanded, squeezed, act)
        self.stage1 = nn.Sequential(*(_Block(*shape) for _ in range(depth)))
        self.stage2 = nn.Sequential(*(_Block(*shape) for _ in range(depth)))
        self.readout = nn.Sequential(
            nn.Linear(hidden, out_features), activation(act), nn.Linear(out_features, out_features)
        )

    def connect(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Abstract ``[batch, n, in_features]`` to ``[batch, side * side, out_features]``."""
        batch, n, _ = tokens.shape
        grid = self.proj_in(tokens).transpose(1, 2).reshape(batch, -1, isqrt(n), isqrt(n))
        pooled = self.stage2(adaptive_avg_pool2d(self.stage1(grid), self.side))
        return cast("Tensor", self.readout(pooled.flatten(2).transpose(1, 2)))

    def out_tokens(self, n: int) -> int:
        """Give side * side, where n tokens are a square."""
        side_of(n, 1, "c_abstractor")
        return self.side**2
