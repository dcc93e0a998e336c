"""Connectors that project each token, or each block of tokens, by itself."""

from __future__ import annotations

from itertools import pairwise
from typing import cast, final

from torch import Tensor, nn

from surgery_plugins.modules.connector import Connector, activation, side_of
from surgery_plugins.modules.grid import shuffle, transpose


@final
class LinearConnector(Connector):
    """Project with one matrix, as PaliGemma does (``PaliGemmaMultiModalProjector``'s names)."""

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.linear = nn.Linear(in_features, out_features, bias=bias)

    def connect(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Project ``[batch, n, in_features]`` to ``[batch, n, out_features]``."""
        return cast("Tensor", self.linear(tokens))


class _Stack(Connector):
    """Hold layers ``linear_1`` ... ``linear_n``, with an activation between each two."""

    def __init__(self, widths: list[int], act: str, bias: bool, norms: bool) -> None:
        super().__init__()
        self.layers = len(widths) - 1
        self.act = activation(act)
        for number, (one, two) in enumerate(pairwise(widths), start=1):
            self.add_module(f"linear_{number}", nn.Linear(one, two, bias=bias))
            if norms and number < self.layers:
                self.add_module(f"norm_{number}", nn.LayerNorm(two))

    def _through(self, tokens: Tensor) -> Tensor:
        for number in range(1, self.layers + 1):
            tokens = self.get_submodule(f"linear_{number}")(tokens)
            if number < self.layers:
                norm = self._modules.get(f"norm_{number}")
                tokens = self.act(tokens if norm is None else norm(tokens))
        return tokens


@final
class MlpConnector(_Stack):
    """Project with n matrices; two are LLaVA's projector (``LlavaMultiModalProjector``).

    With ``norm`` a LayerNorm follows each matrix but the last, before the activation.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        layers: int,
        hidden: int,
        act: str,
        bias: bool,
        norm: bool,
    ) -> None:
        super().__init__(
            [in_features, *[hidden] * (layers - 1), out_features], act, bias=bias, norms=norm
        )
        self.in_features, self.out_features = in_features, out_features

    def connect(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Project ``[batch, n, in_features]`` to ``[batch, n, out_features]``."""
        return self._through(tokens)


@final
class PixelShuffleMlp(_Stack):
    """Join the tokens of each block, then project.

    With ``norm`` and two layers it is InternVL's (``InternVLMultiModalProjector``'s names); with
    one layer and neither norm nor bias it computes what Idefics3's connector does.
    """

    def __init__(  # noqa: PLR0913
        self,
        in_features: int,
        out_features: int,
        factor: int,
        layers: int,
        hidden: int,
        act: str,
        bias: bool,
        norm: bool,
        transposed: bool,
    ) -> None:
        wide = in_features * factor**2
        super().__init__(
            [wide, *[hidden] * (layers - 1), out_features], act, bias=bias, norms=False
        )
        self.in_features, self.out_features = in_features, out_features
        self.factor, self.transposed = factor, transposed
        self.layer_norm = nn.LayerNorm(wide) if norm else None

    def connect(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Project ``[batch, n, in]`` to ``[batch, n / factor ** 2, out]``; rows go on as rows.

        With ``transposed`` the grid comes out with rows and columns swapped, as in InternVL's
        own first version.
        """
        blocks = shuffle(tokens, self.factor)
        blocks = transpose(blocks) if self.transposed else blocks
        return self._through(blocks if self.layer_norm is None else self.layer_norm(blocks))

    def out_tokens(self, n: int) -> int:
        """Give the number of blocks in a square of n tokens."""
        return (side_of(n, self.factor, "pixel_shuffle") // self.factor) ** 2
