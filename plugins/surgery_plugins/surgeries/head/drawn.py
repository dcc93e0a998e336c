"""Draw the values of a module as its model class does when it is built."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.errors import SurgeryError
from surgery.operate.chance import seeded

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


@dataclass(frozen=True, eq=False)
class Drawn:
    """Fill one tensor as its module, and then the model around it, initialise it.

    Attributes:
        name: dotted name of the tensor, for errors.
        module: the module that holds it; on meta.
        owner: the model whose ``_init_weights`` has the last word, or None.
    """

    name: str
    module: nn.Module
    owner: Any = None

    def __call__(self, tensor: Tensor, generator: Generator) -> None:
        """Fill a tensor; only the generator's seed decides what is drawn.

        Raises:
            SurgeryError: neither the module nor the model says how.
        """
        import torch

        with seeded(generator.initial_seed()), torch.no_grad():
            made = self._initialised()._parameters[self.name.rpartition(".")[2]]
            assert made is not None
            tensor.copy_(made)
        if bool(tensor.isnan().any()):
            raise SurgeryError(
                self.name,
                "a module or model that initialises it",
                f"{type(self.module).__name__}, which leaves it empty",
            )

    def _initialised(self) -> nn.Module:
        """Give a copy of the module on the CPU, in float32, with fresh values."""
        import torch

        module = deepcopy(self.module).to_empty(device="cpu").float()
        for parameter in module.parameters(recurse=False):
            parameter.fill_(torch.nan)
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
        if self.owner is not None:
            self.owner._init_weights(module)
        return module


@dataclass(frozen=True)
class Carried:
    """Draw rows anew, except those of labels that there were before.

    Attributes:
        drawn: draws the whole tensor.
        shape: its shape.
        rows: new and old number of each row that stays.
    """

    drawn: Drawn
    shape: tuple[int, ...]
    rows: tuple[tuple[int, int], ...]

    def __call__(self, old: Tensor, *, generator: Generator) -> Tensor:
        """Give the new tensor.

        Args:
            old: the old one; labels along axis 0.
            generator: seeds what is drawn.
        """
        import torch

        made = torch.empty(self.shape, dtype=torch.float32)
        self.drawn(made, generator)
        for new, before in self.rows:
            made[new] = old[before].float()
        return made


def drawn(name: str, model: nn.Module) -> Drawn:
    """Give what draws a parameter of a model that was built anew.

    Args:
        name: the parameter.
        model: the model, on meta.
    """
    path = name.rpartition(".")[0]
    owner, above = None, path
    while owner is None:
        above, last = above.rpartition(".")[0], above
        module = model.get_submodule(last)
        owner = module if hasattr(module, "_init_weights") else None
        if not last:
            break
    return Drawn(name, model.get_submodule(path), owner)
