"""Adapters that took a part of the base (PiSSA, OLoRA), said of the untouched base.

The base holds ``W - s B0 A0`` and the adapter adds ``s B A``; of the untouched base that is
``s (B A - B0 A0)``, an adapter of twice the rank: arXiv 2404.02948, appendix C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.errors import RefusedError
from surgery.operate.slots import Base, compute
from surgery_plugins.peft.ground import in_memory

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.operate.operation import Operation
    from surgery.operate.slots import Origin
    from surgery_plugins.surgeries.lora.branch import Branch

_CLOSE = 1e-5
"""By how much, as a share, a base may differ from what its adapters left of it: rounding."""


@dataclass(frozen=True)
class Beginning:
    """Tell the values with which an operation's tensors began.

    Attributes:
        operation: the operation, its base in memory.
    """

    operation: Operation

    def __call__(self, name: str) -> Tensor:
        """Give the first values of a tensor that the operation added or changed, on the CPU."""
        return self._read(self.operation.slots[name])

    def before(self, name: str) -> Tensor:
        """Give the values of a rewritten tensor of the base before that."""
        return self._read(self.operation.slots[name].sources[0])

    def _read(self, origin: Origin) -> Tensor:
        if isinstance(origin, Base):
            return in_memory(origin.name, origin.tensor).detach().cpu()
        old = [self._read(one) for one in origin.sources]
        return compute(
            origin.value, old, name=origin.name, shape=origin.shape, dtype=origin.dtype,
            seed=self.operation.seed,
        )  # fmt: skip


def check_taken(
    path: str, module: nn.Module, branches: Sequence[Branch], begin: Beginning | None
) -> None:
    """Check that a weight and the products that its adapters took make up the untouched weight.

    Args:
        path: the module.
        module: the same.
        branches: the adapters of one weight that took a part of it.
        begin: tells first values, or None where nothing does.

    Raises:
        RefusedError: nothing tells them, or the weight was trained or rounded too.
    """
    from surgery_plugins.surgeries.lora.arithmetic import delta

    if begin is None:
        raise _cannot(path, "one that took a part of it; export the operation as a whole")
    leaf = branches[0].leaf
    before, held = begin.before(f"{path}.{leaf}"), module._parameters[leaf]
    assert held is not None
    total = in_memory(f"{path}.{leaf}", held).detach().cpu()
    for one in branches:
        a, b = begin(f"{path}.{one.a}"), begin(f"{path}.{one.b}")
        total = total + delta(one, a, b, before.shape, one.scale)
    if float((total - before).norm()) > _CLOSE * float(before.norm()):
        raise _cannot(path, "one whose base changed by more than the adapters took")


def _cannot(path: str, what: str) -> RefusedError:
    return RefusedError(
        f"{path} (peft)", "an adapter of the untouched base", what, "save the whole model"
    )
