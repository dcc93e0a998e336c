"""What an adapter is read onto: the base's modules and tensors, by every name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from surgery.anatomy.extended import own_tensors
from surgery.errors import RefusedError
from surgery.operate.table import named_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgery.anatomy.site import Site


@dataclass(frozen=True)
class Ground:
    """Look at a base; nothing is changed.

    Attributes:
        model: the base.
        inputs: keyword arguments for one forward, or None where they can be guessed.
    """

    model: nn.Module
    inputs: Mapping[str, Any] | None = None

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """All modules, by every path."""
        return dict(self.model.named_modules(remove_duplicate=False))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The base's own persistent tensors, by every name."""
        added = {
            f"{path}.{leaf}" if path else leaf
            for path, module in self.modules.items()
            for leaf in own_tensors(module)
        }
        return {n: t for n, t, keep in named_tensors(self.model) if keep and n not in added}

    @cached_property
    def names(self) -> dict[int, list[str]]:
        """All names of each tensor, by its identity, the first name first."""
        found: dict[int, list[str]] = {}
        for name, tensor in self.tensors.items():
            found.setdefault(id(tensor), []).append(name)
        return found

    def names_of(self, name: str) -> list[str]:
        """Give all names of a tensor (ties), the first name first."""
        return self.names[id(self.tensors[name])]

    def below(self, path: str) -> list[str]:
        """Give the names of the tensors at and below a module."""
        return [name for name in self.tensors if name.startswith(f"{path}.")]

    def sites(self, traced: bool) -> Mapping[str, Site]:
        """Give the sites by path; raw parameters show their axes only in an observed forward."""
        from surgery.anatomy.walk import walk

        return walk(self.model, self.inputs, trace=traced).by_path

    @property
    def embedding(self) -> str:
        """Path of the input embedding, or an empty text."""
        get: Any = getattr(self.model, "get_input_embeddings", None)
        try:
            found = get() if get else None
        except NotImplementedError:
            found = None
        return next((path for path, one in self.modules.items() if one is found), "")


def in_memory(name: str, tensor: Tensor) -> Tensor:
    """Give a tensor of the base that has values.

    Raises:
        RefusedError: it is on meta, because the operation was computed file by file.
    """
    if tensor.is_meta:
        raise RefusedError(
            f"{name} (peft)", "the base in memory, since the adapter carries something of it",
            "its structure alone", "apply the recipe with --live",
        )  # fmt: skip
    return tensor
