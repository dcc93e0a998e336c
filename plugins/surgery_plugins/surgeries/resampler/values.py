"""Where the values of a connector's tensors come from: a file, the old connector, or a fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Generator, Tensor, nn

from surgery.checkpoint.tensors import TensorReader
from surgery.errors import IntegrityError, SurgeryError
from surgery.operate.edits import Derive, Init, Keep, Value
from surgery_plugins.modules.mamba import FIRST, MambaMixer
from surgery_plugins.surgeries.resampler.stored import open_stored

if TYPE_CHECKING:
    from surgery_plugins.surgeries.resampler.kind import Kind, Shapes

Carry = Literal["exact", "overlap", "none"]
Fill = Callable[[Tensor, Generator], object]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Give all parameters and buffers of a module by relative name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Give the shapes of a module's tensors by relative name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors_of(module).items()}


@dataclass(frozen=True)
class FileValues:
    """Values from a connector's own weights, opened when the first is asked for.

    Attributes:
        path: file or folder.
        kind: name of the connector's kind.
        prefix: what stands before its names.
    """

    path: str
    kind: str
    prefix: str

    @cached_property
    def names(self) -> Mapping[str, str]:
        """The stored name of each tensor."""
        return open_stored(self.path, False).find(self.kind, self.prefix, {}).names

    @cached_property
    def reader(self) -> TensorReader:
        """The file, its header read once."""
        return TensorReader(Path(self.path).expanduser())

    def read(self, name: str, values: Tensor, generator: Generator) -> None:
        """Fill ``values`` with one tensor of the connector.

        Raises:
            IntegrityError: the file changed since the plan was made.
        """
        stored = self.reader.get(self.names[name])
        if stored.shape != values.shape:
            raise IntegrityError(
                f"{self.path}: {self.names[name]}",
                f"shape {tuple(values.shape)}",
                f"{tuple(stored.shape)}",
                "the file changed since the plan was made",
            )
        values.copy_(stored)


def from_file(module: nn.Module, source: FileValues) -> dict[str, Value]:
    """Let every tensor of a module come from a file."""
    return {name: Init(partial(source.read, name)) for name in tensors_of(module)}


def warm_start(
    module: nn.Module, kind: Kind, path: str, old: nn.Module, carry: Carry
) -> dict[str, Value]:
    """Carry from the old connector what fits by name, and fill the rest.

    ``exact`` carries tensors of the same name and shape. ``overlap`` also carries, of tensors
    with the same name and as many axes, the part that both have, from index 0 of each axis; what
    lies outside is filled. Names are compared as the new kind names them.

    Args:
        module: the new connector, on meta.
        kind: its kind.
        path: where both stand in the model.
        old: the connector that is there.
        carry: what to carry.
    """
    before = tensors_of(old)
    renamed = kind.rename({name: tuple(t.shape) for name, t in before.items()})
    there = {} if carry == "none" else {ours: name for name, ours in renamed.items()}
    values: dict[str, Value] = {}
    for name, tensor in tensors_of(module).items():
        fill = first_fill(module, name)
        found = there.get(name)
        values[name] = Init(fill)
        if found is not None:
            full = f"{path}.{found}"
            values[name] = _carried(tensor, before[found], full, fill, carry) or Init(fill)
    return values


def _carried(new: Tensor, old: Tensor, full: str, fill: Fill, carry: Carry) -> Value | None:
    if old.shape == new.shape:
        return Keep(full) if old.dtype == new.dtype else Derive((full,), _same)
    if carry == "overlap" and old.dim() == new.dim() > 0:
        return Derive((full,), partial(_overlap, shape=tuple(new.shape), fill=fill))
    return None


def _same(old: Tensor, generator: Generator) -> Tensor:
    return old


def _overlap(old: Tensor, generator: Generator, shape: tuple[int, ...], fill: Fill) -> Tensor:
    fresh = torch.empty(shape, dtype=torch.promote_types(old.dtype, torch.float32))
    fill(fresh, generator)
    part = tuple(slice(0, min(a, b)) for a, b in zip(shape, old.shape, strict=True))
    fresh[part] = old[part].to(fresh.dtype)
    return fresh


def first_fill(module: nn.Module, name: str) -> Fill:
    """Give the fill of a new tensor.

    Matrices and convolutions and their biases are uniform within 1 / sqrt(inputs), torch's own
    default; norms do nothing; Mamba's own tensors are as its paper has them; learned vectors
    are normal with deviation 0.02.

    Raises:
        SurgeryError: nobody says how the tensor begins.
    """
    owner_path, _, leaf = name.rpartition(".")
    above, _, last = owner_path.rpartition(".")
    for path, own in ((owner_path, leaf), (above, f"{last}.{leaf}")):
        mixer = module.get_submodule(path)
        if isinstance(mixer, MambaMixer) and own in FIRST:
            return partial(FIRST[own], mixer.dt_rank)
    return _usual(module.get_submodule(owner_path), leaf, name)


def _usual(owner: nn.Module, leaf: str, name: str) -> Fill:
    if isinstance(owner, nn.Linear | nn.Conv1d | nn.Conv2d):
        return partial(_uniform, prod(owner.weight.shape[1:]) ** -0.5)
    if type(owner).__name__.endswith("Norm"):
        return partial(_constant, float(leaf == "weight" and "Gemma" not in type(owner).__name__))
    if leaf in ("latents", "query_tokens", "mm_input_projection_weight"):
        return _normal
    raise SurgeryError(name, "a tensor with a known first value", f"one of {type(owner).__name__}")


def _uniform(bound: float, values: Tensor, generator: Generator) -> None:
    values.uniform_(-bound, bound, generator=generator)


def _constant(number: float, values: Tensor, generator: Generator) -> None:
    values.fill_(number)


def _normal(values: Tensor, generator: Generator) -> None:
    values.normal_(0.0, 0.02, generator=generator)


def check_table(stored: Shapes, wanted: Shapes, where: str) -> None:
    """Check that a file holds exactly the tensors of a connector.

    Raises:
        IntegrityError: some are missing, unknown or of another shape; all are listed.
    """
    wrong = [f"{name} is missing" for name in sorted(set(wanted) - set(stored))]
    wrong += [f"{name} is unknown" for name in sorted(set(stored) - set(wanted))]
    wrong += [
        f"{name} has shape {stored[name]} and not {wanted[name]}"
        for name in sorted(set(stored) & set(wanted))
        if stored[name] != wanted[name]
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise IntegrityError(
            where, f"the {len(wanted)} tensors of the connector", "; ".join(wrong[:5]) + more,
            "check `kind:` and `sizes:`; tensors are never left out or made up",
        )  # fmt: skip
