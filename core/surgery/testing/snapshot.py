"""Snapshots: everything of a patient that a surgery could change, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from surgery.checks.digest import digest_of
from surgery.operate.dtypes import name_of
from surgery.operate.table import named_tensors

if TYPE_CHECKING:
    from surgery.operate.patient import Patient

_TABLES = ("_parameters", "_buffers", "_modules", "training")
"""Attributes of a module that are looked at one by one."""


@dataclass(frozen=True)
class Snapshot:
    """What a patient was at one moment.

    Attributes:
        facts: what was found, by what it is of: the digest of each tensor, the class of each
            module, and so on.
        held: the objects that were found, so that none of their addresses is used again.
    """

    facts: Mapping[str, Any]
    held: tuple[object, ...] = ()


def snapshot(patient: Patient, *, identities: bool = True) -> Snapshot:
    """Take a snapshot of a patient.

    Args:
        patient: its model may be on meta.
        identities: also remember which object each tensor and module is; False to compare
            patients that were built apart.
    """
    model = patient.model
    facts = dict(_tensors(model)) | dict(_modules(model)) | dict(_around(patient))
    held = [tensor for _, tensor, _ in named_tensors(model)]
    modules = dict(model.named_modules(remove_duplicate=False))
    if not identities:
        return Snapshot(facts)
    facts |= {f"object of tensor {n}": id(t) for n, t, _ in named_tensors(model)}
    facts |= {f"object of module {path}": id(module) for path, module in modules.items()}
    return Snapshot(facts, (*held, *modules.values()))


def _tensors(model: nn.Module) -> Iterator[tuple[str, Any]]:
    first: dict[int, str] = {}
    for name, tensor, persistent in named_tensors(model):
        form = (tuple(tensor.shape), name_of(tensor.dtype), tensor.device.type)
        yield f"form of {name}", (*form, type(tensor).__name__, persistent)
        yield f"trainable flag of {name}", tensor.requires_grad
        yield f"gradient of {name}", tensor.grad is None
        yield f"tie of {name}", first.setdefault(id(tensor), name)
        yield f"bits of {name}", "" if tensor.is_meta else digest_of(tensor)


def _modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in model.named_modules(remove_duplicate=False):
        at = path or "the model"
        yield f"class of {at}", type(module).__qualname__
        yield f"mode of {at}", module.training
        yield (
            f"order in {at}",
            tuple(
                tuple(getattr(module, table)) for table in ("_parameters", "_buffers", "_modules")
            ),
        )
        for key, value in vars(module).items():
            if key not in _TABLES:
                yield f"{at}.{key}", _plain(_without_numbers(key, value))


def _without_numbers(key: str, value: Any) -> Any:
    """Leave the keys of hooks out: torch numbers them through all models."""
    return list(value.values()) if "_hooks" in key and isinstance(value, Mapping) else value


def _plain(value: Any) -> Any:
    """Give what can be compared of an attribute: values where they are plain, else the class."""
    if isinstance(value, Tensor):
        return "a tensor" if value.is_meta else digest_of(value)
    if isinstance(value, Mapping):
        return tuple((str(key), _plain(item)) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(map(_plain, value))
    plain = isinstance(value, str | int | float | bool | complex | None)
    return value if plain else type(value).__qualname__


def _around(patient: Patient) -> Iterator[tuple[str, Any]]:
    config = patient.config
    if config is not None:
        stated = config.to_dict() if hasattr(config, "to_dict") else vars(config)
        yield "the configuration", deepcopy(stated)
    if patient.tokenizer is not None:
        yield "the tokenizer", dict(patient.tokenizer.get_vocab())


def differences(one: Snapshot, other: Snapshot) -> list[str]:
    """Name what differs between two snapshots, in order; an empty list where nothing does."""
    known = dict.fromkeys((*one.facts, *other.facts))
    lost = object()
    return [key for key in known if one.facts.get(key, lost) != other.facts.get(key, lost)]
