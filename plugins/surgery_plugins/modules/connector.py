"""What every connector between a vision tower and a language model offers."""

from __future__ import annotations

from abc import abstractmethod
from math import isqrt
from typing import Any

from torch import Tensor, nn

from surgery.errors import MissingExtraError, RefusedError
from surgery_plugins.modules.grid import unshuffle


class Connector(nn.Module):
    """Turn the tokens of a vision tower into tokens of a language model.

    Attributes:
        in_features: width of a token of the tower.
        out_features: width of a token that goes out.
        joined: side of the blocks that the host has already joined into one token when it calls
            the connector (InternVL does); 1 where it hands on the tower's tokens.
    """

    in_features: int
    out_features: int
    joined: int = 1

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Connect a tower's tokens to a language model.

        Args:
            tokens: ``[batch, n, in_features]``, a square grid row by row where a grid is needed;
                with ``joined`` j, ``[batch, n / j ** 2, in_features * j ** 2]``.
            attention_mask: ``[batch, n]``, True at tokens that count; None where all do. Latents,
                queries and scans heed it; what projects or pools tokens does not.

        Returns:
            ``[batch, out_tokens(n), out_features]``.
        """
        if self.joined > 1:
            tokens = unshuffle(tokens, self.joined)
        return self.connect(tokens, attention_mask)

    @abstractmethod
    def connect(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Connect ``[batch, n, in_features]`` to ``[batch, out_tokens(n), out_features]``."""

    def out_tokens(self, n: int) -> int:
        """Give how many tokens come out where n go in.

        Raises:
            RefusedError: n tokens cannot go in.
        """
        return n


def side_of(n: int, divisor: int, who: str) -> int:
    """Give the side of the square grid that n tokens fill.

    Args:
        n: how many tokens.
        divisor: what the side must be a multiple of.
        who: how an error names the connector.

    Raises:
        RefusedError: they fill no such grid; a class token among them is the usual reason.
    """
    side = isqrt(n)
    if side * side == n and side % divisor == 0:
        return side
    wanted = f"a square of tokens whose side is a multiple of {divisor}"
    hint = "drop the class token before the connector" if isqrt(n - 1) ** 2 == n - 1 else ""
    raise RefusedError(who, wanted, f"{n} tokens", hint or "choose another factor or image size")


def activation(name: str) -> nn.Module:
    """Give the activation of a name that transformers knows, such as ``gelu``.

    Raises:
        MissingExtraError: transformers is not installed.
        RefusedError: it knows no such activation.
    """
    table: Any = library("activation").activations.ACT2FN
    if name not in table:
        raise RefusedError("act", "the name of an activation", repr(name), "such as gelu or silu")
    found: nn.Module = table[name]
    return found


def library(where: str) -> Any:
    """Import transformers, whose classes several connectors reuse.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import transformers.activations
    except ModuleNotFoundError:
        raise MissingExtraError(where, "transformers", "hf") from None
    return transformers
