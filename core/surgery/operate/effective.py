"""Effective tensors: other values under a parameter's name, for whoever reads it.

Some modules read a weight without calling its owner (``nn.MultiheadAttention`` its ``out_proj``,
a tied head its embedding), and raw parameters have no owner's forward at all. There, a changed
``forward`` would have no effect; a property in front of the parameter has. The parameter itself
keeps its name in ``_parameters``, so state dicts, optimizers and ``named_parameters`` see the base.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from surgery.anatomy.extended import EXTENSIONS
from surgery.operate.behaviour import Behaviour

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class Effect(Protocol):
    """Settings of an extension that changes the values seen under a parameter's name."""

    @property
    def leaf(self) -> str:
        """Name of the parameter in its module."""

    def effective(self, module: nn.Module, weight: Tensor) -> Tensor:
        """Give the values to see instead of ``weight``, same shape, by differentiable operations.

        Args:
            module: the module; its extra tensors are in ``module._parameters``.
            weight: the base values, or what an earlier extension made of them.
        """


class EffectiveTensor(Behaviour):
    """Show a parameter as its extensions change it. Made for one name by ``effective``."""


@cache
def effective(leaf: str) -> type[Behaviour]:
    """Give the behaviour that shows the parameter ``leaf`` as its extensions change it."""

    def read(module: Any) -> Any:
        weight = module._parameters[leaf]
        for extend in module.__dict__[EXTENSIONS].values():
            if isinstance(extend.settings, Effect) and extend.settings.leaf == leaf:
                weight = extend.settings.effective(module, weight)
        return weight

    return type(f"Effective_{leaf}_", (EffectiveTensor,), {leaf: property(read)})
