"""Whether a module can be taken out of a model on its own."""

from __future__ import annotations

from torch import nn

from surgery.anatomy.extended import EXTENSIONS
from surgery.errors import RefusedError


def check_own(model: nn.Module, path: str, name: str) -> None:
    """Check that a module is as the base has it, and that no other shares its tensors.

    A module under several names is one module.

    Raises:
        RefusedError: it was extended, or another module holds a tensor of it.
    """
    module = model.get_submodule(path)
    if EXTENSIONS in module.__dict__:
        raise RefusedError(
            f"{name}: {path}", "a module as the base has it", "one that was extended",
            "write this step before the one that extends it, or `use: merge` first",
        )  # fmt: skip
    held = {id(tensor) for tensor in module.parameters()}
    for other_path, other in model.named_modules() if held else ():
        shared = any(id(tensor) in held for tensor in other._parameters.values())
        if other is not module and shared:
            raise RefusedError(f"{name}: {path}", "tensors of its own",
                               f"some that {other_path} shares")  # fmt: skip
