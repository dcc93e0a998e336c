"""Tensors of the base that an adapter replaces: modules saved whole, biases, and mere copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.errors import PatientError, Problems, SurgeryError
from surgery.operate.importer import Incoming
from surgery_plugins.peft.folder import Adapter
from surgery_plugins.peft.ground import Ground
from surgery_plugins.peft.low_rank import BASE, Pair
from surgery_plugins.peft.names import CONFIG, Name, in_base, is_copy
from surgery_plugins.peft.targets import saved_modules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Replaced:
    """What an adapter replaces in the base.

    Attributes:
        train: paths of modules, and names of biases, that take gradients.
        untie: paths of modules whose weight no longer follows the one that it was tied to.
        tensors: the values, by the base's names.
    """

    train: tuple[str, ...]
    untie: tuple[str, ...]
    tensors: Mapping[str, Incoming]


def replaced(adapter: Adapter, ground: Ground, pairs: list[Pair]) -> Replaced:
    """Give what an adapter replaces.

    Raises:
        Problems: a tensor is missing, of another shape, or of another base.
    """
    modules = _modules(adapter, ground)
    biases = _biases(adapter, ground, pairs)
    wanted = {*biases, *(name for path in modules for name in ground.below(path))}
    found: dict[str, str] = {}
    problems: list[SurgeryError] = []
    for name in adapter.names:
        if name.kind == "base":
            own = in_base(name.path, ground.tensors)
            if own in wanted and not is_copy(name.path):
                found[own] = name.key
            else:
                problems += _not_a_copy(adapter, ground, name, own)
    problems += _unfit(adapter, ground, found, wanted)
    if problems:
        raise Problems(str(adapter.folder), problems)
    untie = _untied(adapter, ground, found)
    kept = {name: key for name, key in found.items() if _stands_for(name, ground, untie)}
    tensors = {name: _incoming(adapter, key) for name, key in kept.items()}
    return Replaced((*modules, *sorted(biases)), tuple(untie), tensors)


def _modules(adapter: Adapter, ground: Ground) -> list[str]:
    """Give the modules that PEFT saves whole, those that it ties to the embedding too."""
    modules = saved_modules(adapter.config, ground.model)
    name = f"{ground.embedding}.weight"
    if ground.embedding in modules and adapter.option("ensure_weight_tying", False):
        tied = [other.removesuffix(".weight") for other in ground.names_of(name)]
        return list(dict.fromkeys([*modules, *tied]))
    return modules


def _biases(adapter: Adapter, ground: Ground, pairs: list[Pair]) -> set[str]:
    """Give the biases that PEFT trains and saves."""
    kind = adapter.option("bias", "none")
    if kind == "all":
        return {names[0] for names in ground.names.values() if _is_bias(names[0])}
    if kind == "lora_only":
        names = (f"{pair.place.path}.bias" for pair in pairs)
        return {name for name in names if name in ground.tensors}
    return set()


def _is_bias(name: str) -> bool:
    return name == "bias" or name.endswith(".bias")


def _not_a_copy(
    adapter: Adapter, ground: Ground, name: Name, own: str | None
) -> Iterator[SurgeryError]:
    """Find a tensor that the adapter does not replace and that is not the base's own."""
    import torch

    if own is None:
        yield PatientError(
            adapter.where(name.key), "a tensor of the model", f"none of the name {name.path}", BASE
        )
        return
    held, values = ground.tensors[own].detach().cpu(), adapter.get(name.key)
    if not torch.equal(held, values.to(held.dtype)):
        yield PatientError(
            adapter.where(name.key), f"the base's own {own}, shape {tuple(held.shape)}",
            f"other values, shape {tuple(values.shape)}",
            "is this the adapter's base? If it was resized or trained too, start from that",
        )  # fmt: skip


def _unfit(
    adapter: Adapter, ground: Ground, found: Mapping[str, str], wanted: set[str]
) -> Iterator[SurgeryError]:
    for name in sorted(wanted):
        shape = tuple(ground.tensors[name].shape)
        if name not in found:
            yield PatientError(
                str(adapter.file), f"a tensor for {name}, which {CONFIG} says is trained", "none",
                "is the file whole? PEFT would keep the base's values without a word",
            )  # fmt: skip
        elif adapter.shapes[found[name]] != shape:
            yield PatientError(
                adapter.where(found[name]), f"shape {shape}",
                f"shape {adapter.shapes[found[name]]}", BASE,
            )  # fmt: skip


def _untied(adapter: Adapter, ground: Ground, found: Mapping[str, str]) -> list[str]:
    """Give the modules that leave a tie: all that are replaced, but those replaced alike."""
    import torch

    leave: list[str] = []
    for names in ground.names.values():
        new = [name for name in names if name in found]
        if len(names) == 1 or not new:
            continue
        first = adapter.get(found[new[0]])
        alike = [n for n in new if torch.equal(adapter.get(found[n]), first)]
        if len(new) < len(names):
            leave += new
        elif len(alike) < len(names):
            leave += [name for name in new if name not in alike]
    return [name.rpartition(".")[0] for name in leave]


def _stands_for(name: str, ground: Ground, untied: list[str]) -> bool:
    """Tell whether a name is the one by which its tensor is filled."""
    return name.rpartition(".")[0] in untied or ground.names_of(name)[0] == name


def _incoming(adapter: Adapter, key: str) -> Incoming:
    def read() -> Tensor:
        return adapter.get(key)

    return Incoming(adapter.where(key), adapter.shapes[key], read)
