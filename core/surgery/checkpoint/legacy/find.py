"""Find the state dicts in a tree of containers: mappings of names to tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.dtypes import CODES
from surgery.checkpoint.header import TensorEntry, check_name
from surgery.checkpoint.legacy.read import is_leaf
from surgery.checkpoint.strict import show
from surgery.checkpoint.tensors import read_tensor
from surgery.checkpoint.writer import NewEntry
from surgery.errors import PatientError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

WHOLE = "(the file itself)"
"""How a state dict is called that no other mapping holds."""

MAX_DEPTH = 16
"""Levels of containers that are searched."""

HUGE = 2.0**63
"""Numbers as large as this are no sizes, and are not kept."""

_LIGHTNING, _STATE = "pytorch-lightning_version", "state_dict"


@dataclass(frozen=True)
class StateDict:
    """One mapping of names to tensors.

    Attributes:
        key: where it lies in the file, keys joined by dots; ``WHOLE`` for the file itself.
        tensors: what it holds, by name.
        others: names of values that are no tensors.
        left_out: names of tensors that the user wants left out.
    """

    key: str
    tensors: dict[str, NewEntry]
    others: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def state_dicts(tree: Any, where: str, key: str | None = None) -> list[StateDict]:
    """Find the state dicts of a checkpoint that may be the model's.

    A state dict is a mapping by text that holds tensors, one of floating point at least, and no
    mapping with tensors. States of optimizers (a mapping with ``state`` and ``param_groups``) are
    passed over; of a Lightning checkpoint only its ``state_dict`` counts.

    Args:
        tree: what the file holds.
        where: how errors name the file.
        key: the only one that is wanted, as ``StateDict.key`` has it.

    Raises:
        PatientError: there is none, or a tensor is of a kind that safetensors cannot hold.
        IntegrityError: the name of a tensor is unfit for any file.
        RecipeError: there is none of that key.
    """
    found = dict(_search(tree, (), set()))
    if key is not None and key not in found:
        raise RecipeError("--key", f"a key of tensors in {where}", repr(key), _known(found, key))
    if key is None and isinstance(tree, Mapping) and _LIGHTNING in tree and _STATE in found:
        key = _STATE
    chosen = {key: found[key]} if key is not None else found
    if not chosen:
        raise PatientError(where, "tensors by name", _held(tree))
    return [_state(name, mapping, where) for name, mapping in chosen.items()]


def only(found: list[StateDict], where: str) -> StateDict:
    """Give the one state dict of a file.

    Raises:
        PatientError: there are several, so that the user must say which.
    """
    if len(found) > 1:
        listed = ", ".join(f"'{one.key}' ({len(one.tensors)} tensors)" for one in found[:8])
        raise PatientError(where, "one state dict", f"{len(found)}: {listed}", "choose with --key")
    return found[0]


def metadata_of(tree: Any) -> dict[str, bool | int | float]:
    """Give the numbers and switches that a checkpoint keeps about itself.

    Those of its ``hyper_parameters`` or ``args`` by their own names, and ``epoch``, ``step`` and
    ``global_step``. Text is left out: it may hold paths and secrets.
    """
    if not isinstance(tree, Mapping):
        return {}
    found = {k: tree[k] for k in ("epoch", "step", "global_step") if k in tree}
    for name in ("args", "hyper_parameters"):
        held = tree.get(name)
        found |= held if isinstance(held, Mapping) else getattr(held, "state", {})
    return {
        key: value
        for key, value in found.items()
        if isinstance(key, str)
        and key.isprintable()
        and isinstance(value, bool | int | float)
        and abs(value) < HUGE
    }


def _search(
    tree: Any, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Walk down mappings by text, each once; one counts where none below it holds tensors."""
    if not isinstance(tree, Mapping) or len(path) > MAX_DEPTH or id(tree) in seen:
        return
    seen.add(id(tree))
    if _is_optimizer(tree):
        return
    below = [
        found
        for key, value in tree.items()
        if isinstance(key, str)
        for found in _search(value, (*path, key), seen)
    ]
    yield from below
    if not below and all(isinstance(key, str) for key in tree) and _has_floats(tree):
        yield ".".join(path) or WHOLE, tree


def _is_optimizer(tree: Mapping[Any, Any]) -> bool:
    return "state" in tree and "param_groups" in tree


def _has_floats(tree: Mapping[str, Any]) -> bool:
    import torch

    return any(
        value.dtype.is_floating_point or value.dtype.is_complex
        if isinstance(value, torch.Tensor)
        else isinstance(value, TensorEntry) and value.dtype.startswith(("float", "bfloat", "comp"))
        for value in tree.values()
    )


def _state(key: str, mapping: Mapping[str, Any], where: str) -> StateDict:
    for name in mapping:
        check_name(f"{where}: tensor {show(name)}", name)
    tensors = {name: entry_of(name, item, where) for name, item in mapping.items() if is_leaf(item)}
    others = tuple(name for name, item in mapping.items() if not is_leaf(item))
    return StateDict(key, tensors, others)


def entry_of(name: str, item: Tensor | TensorEntry, where: str) -> NewEntry:
    """Make a tensor, or the place of one, something that can be written.

    Raises:
        PatientError: safetensors cannot hold it.
    """
    import torch

    if isinstance(item, TensorEntry):
        return NewEntry(name, item.dtype, item.shape, item)
    kind, dtype = type(item), str(item.dtype).removeprefix("torch.")
    if kind not in (torch.Tensor, torch.nn.Parameter) or item.layout != torch.strided:
        raise _unfit(name, f"a {kind.__name__} of layout {item.layout}", where)
    if dtype not in CODES or item.is_quantized:
        raise _unfit(name, f"dtype {dtype}", where)
    return NewEntry(name, dtype, tuple(item.shape), item.detach)


def values_of(entry: NewEntry) -> Tensor:
    """Give the values of a tensor that could be written."""
    if isinstance(entry.produce, TensorEntry):
        return read_tensor(entry.produce)
    whole = entry.produce()
    assert not isinstance(whole, Iterator)  # entry_of gives tensors whole
    return whole.detach()


def _unfit(name: str, found: str, where: str) -> PatientError:
    instead = "make it a plain tensor where the checkpoint was written, and save it anew"
    return PatientError(f"{where}: {show(name)}", "a tensor that safetensors holds", found, instead)


def _held(tree: Any) -> str:
    if not isinstance(tree, Mapping):
        return f"a {type(tree).__name__}"
    keys = ", ".join(f"{show(str(key))} ({type(value).__name__})" for key, value in tree.items())
    return f"no tensors under {keys[:300]}" if keys else "an empty mapping"


def _known(found: Mapping[str, Any], key: str) -> str:
    return did_you_mean(key, found)
