"""What layers, norms and gates do that keep little for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from surgery.operate.behaviour import Behaviour
from surgery_plugins.surgeries.lean.again import Scope, again, open_scope


@dataclass(frozen=True, slots=True)
class Gate:
    """Say which children of a module make ``down(act(gate(x)) * up(x))``.

    Attributes:
        gate: name of the child whose output is activated.
        up: name of the child whose output is multiplied with that.
        act: name of the activation.
        down: name of the child that is given the product.
    """

    gate: str
    up: str
    act: str
    down: str


class KeepsLess(Behaviour):
    """Change what is kept, and nothing that is computed."""

    transparent: ClassVar[bool] = True


class LeanLayer(KeepsLess):
    """Keep of what the norms and gates below make how to make it again, not its values."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer's own forward, and decide what autograd keeps of it."""
        run: Callable[..., Any] = super().forward  # type: ignore[misc]
        if not _decides():
            return run(*args, **kwargs)
        with open_scope() as scope, saved_tensors_hooks(scope.pack, Scope.unpack):
            return run(*args, **kwargs)


class LeanNorm(KeepsLess):
    """Keep a norm's input alone."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the norm's own forward; where it is given a tensor alone, keep that alone.

        Args:
            args: the input, ``[..., features]``, and whatever else is passed on.
            kwargs: passed on.
        """
        run: Callable[..., Any] = super().forward  # type: ignore[misc]
        return again(run, *args) if _is_tensor(args, kwargs) else run(*args, **kwargs)


class LeanGate(KeepsLess):
    """Keep what the two products of a gated MLP gave, and nothing that is made of them."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Give ``down(act(gate(x)) * up(x))``, which is what the module's own forward gives.

        Args:
            args: the input ``x``, ``[..., in]``.
            kwargs: passed on to the module's own forward.
        """
        if not _is_tensor(args, kwargs):
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        ((_, names),) = self.extensions(Gate)
        gate, up, act, down = (
            getattr(cast("nn.Module", self), one)
            for one in (names.gate, names.up, names.act, names.down)
        )
        (x,) = args
        return down(again(lambda g, u: act(g) * u, gate(x), up(x)))


def _decides() -> bool:
    """Tell whether it is for a layer to decide what autograd keeps.

    It is not without a backward, where a compiler decides, where hooks do, as those of activation
    checkpointing, and where there can be none, as in ``torch.func``.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    hooks: Any = torch._C._autograd
    return hooks._saved_tensors_hooks_is_enabled() and (
        hooks._top_saved_tensors_default_hooks(True) is None
    )


def _is_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Tell whether a forward is given one tensor alone."""
    return len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
