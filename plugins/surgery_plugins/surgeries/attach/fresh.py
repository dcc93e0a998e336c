"""The values with which an attached module begins: those of its class, from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.errors import RefusedError
from surgery.operate.chance import seeded
from surgery.operate.edits import Init, Value

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from surgery.operate.attachment import Attachment


@dataclass(frozen=True)
class Fresh:
    """Fill one tensor with what a module that is built anew has there.

    Attributes:
        kind: builds the module.
        features: size of what feeds it.
        name: the tensor's name in the module.
    """

    kind: Attachment
    features: int
    name: str

    def __call__(self, tensor: Tensor, generator: Generator) -> None:
        """Fill a tensor in place; only the generator's seed decides what is drawn."""
        import torch

        with seeded(generator.initial_seed()), torch.no_grad():
            tensor.copy_(_tensors(self.kind.build(self.features))[self.name])


def fresh_module(
    kind: Attachment, features: int, dtype: str, training: bool
) -> tuple[nn.Module, dict[str, Value]]:
    """Build a module on meta, and say where its values come from.

    Args:
        kind: builds the module.
        features: size of what feeds it.
        dtype: its dtype by torch's name.
        training: its mode.

    Raises:
        RefusedError: it cannot be built.
    """
    from surgery.anatomy.on_device import on_device
    from surgery.operate.dtypes import dtype_of

    try:
        with on_device("meta"):
            module = kind.build(features).to(dtype_of(dtype)).train(training)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"[:300]
        raise RefusedError(f"attach.module: {kind.name}", "a module that is built", found) from None
    return module, {name: Init(Fresh(kind, features, name)) for name in _tensors(module)}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Give parameters and buffers by name, tied ones once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
